/* Which handles are alive, and how many calls use each: what makes a free on another thread wait, and what makes a use
 * after it fail. A pointer that was never noted is nobody's business: C code may bring its own. */
#pragma once

namespace guard {

struct Entry;  // of a handle that is alive

void add(const void * handle) noexcept;
void add_part(const void * part, const void * owner) noexcept;

/* The entry of a handle; null for an unknown one, with `freed` set for one that is gone. `take` adds a user. */
Entry * take(const void * handle, bool & freed) noexcept;
Entry * find(const void * handle, bool & freed) noexcept;
void    release(Entry * entry) noexcept;

/* From here on nobody finds the handle; returns when the last user has released it. False if somebody was faster. */
bool retire(const void * handle, Entry * entry) noexcept;

}  // namespace guard
