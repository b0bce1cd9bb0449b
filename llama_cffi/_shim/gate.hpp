/* llama.cpp keeps a list of a model's adapters without a lock, and reads it while contexts of that model are made and
 * compute. So adapters are loaded and freed while nothing computes: computing is reading, loading and freeing is writing.
 */
#pragma once

class Reading {
  public:
    Reading();
    ~Reading();
    Reading(const Reading &)             = delete;
    Reading & operator=(const Reading &) = delete;
};
