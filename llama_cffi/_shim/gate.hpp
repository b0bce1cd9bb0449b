/* The adapter lock, a reader/writer lock. llama.cpp keeps the list of a model's adapters without a lock, and reads it
 * while contexts of that model are created and compute. So computing acquires the lock shared (reading), and loading or
 * freeing an adapter acquires it exclusively (writing). */
#pragma once

/* Holds the lock shared, for the lifetime of the object. */
class Reading {
  public:
    Reading();
    ~Reading();
    Reading(const Reading &)             = delete;
    Reading & operator=(const Reading &) = delete;
};

/* Holds the lock exclusively, for the lifetime of the object. False on a thread that holds it shared. */
class Writing {
  public:
    Writing();
    ~Writing();
    Writing(const Writing &)             = delete;
    Writing & operator=(const Writing &) = delete;

    explicit operator bool() const { return held_; }

  private:
    bool held_;
};
