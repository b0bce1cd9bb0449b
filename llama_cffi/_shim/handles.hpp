/* The registry of live handles, with the number of calls that use each. It makes a thread that frees a handle wait for
 * the calls that use it, and makes a later use fail. Pointers that were never registered are ignored: C code may create
 * its own objects. */
#pragma once

namespace guard {

struct Entry;  // a live handle and its users

void add_handle(const void * handle) noexcept;
void add_part(const void * part, const void * owner) noexcept;

/* Returns the entry of a handle; null if it is unknown, with `freed` set if it was freed. */
Entry * find(const void * handle, bool & freed) noexcept;

/* Same as find, and adds a user to the entry until release. */
Entry * acquire(const void * handle, bool & freed) noexcept;
void release(Entry * entry) noexcept;

/* Returns true if a pointer lies inside the handle of its entry, and is not the handle. */
bool is_part(const void * pointer, const Entry * entry) noexcept;

/* Removes a handle, then waits until its last user has released it. Returns false if another thread has removed it. */
bool remove_handle(const void * handle, Entry * entry) noexcept;

}  // namespace guard
