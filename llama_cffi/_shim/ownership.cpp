/* Ownership and exclusive use, safe at every point where Python can raise.
 *
 * A signal handler, a trace function or another thread can raise an exception between any two steps of Python code, so
 * Python code cannot acquire something and note that it did so. These objects do both in one step of C:
 *
 *   own(free, make, *args)   an Owned: calls `make`, owns the C object that it returns, and frees it exactly once
 *   exclusive(*handles)      for `with`: exclusive use of handles
 *   hold(acquire, release)   for `with`: anything else that is acquired and released
 *   atomic(calls, undo)      several calls of C functions, all or none
 *
 * An object for `with` releases what it holds when it is destroyed, at the latest. Python keeps it on the stack of the
 * frame and nowhere else, so an exception that skips the end of the block destroys it. */
#include "ownership.hpp"

#include "shim.h"

#include <cstddef>
#include <new>
#include <unordered_map>
#include <vector>

#include <unistd.h>

namespace {

PyObject * name_busy;
PyObject * name_pointer;
PyObject * name_closing;
PyObject * name_raise_busy;
PyObject * name_raise_closed;

PyTypeObject * lock_type;
PyTypeObject * exclusive_type;
PyTypeObject * hold_type;
PyTypeObject * owned_type;

Py_ssize_t alive = 0;  // C objects that an Owned will free

template <typename T> T * allocate(PyTypeObject * type) {
    return reinterpret_cast<T *>(PyType_GenericAlloc(type, 0));
}

void deallocate(PyObject * self) {
    PyTypeObject * type = Py_TYPE(self);
    reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* Keeps the exception that is being raised while other code runs. */
struct KeepError {
    PyObject *kind, *value, *trace;

    KeepError() { PyErr_Fetch(&kind, &value, &trace); }

    ~KeepError() { PyErr_Restore(kind, value, trace); }
};

// Lock: exclusive use of a handle

struct Lock {
    PyObject_HEAD unsigned long owner;  // the thread that has acquired it; 0: free
};

PyObject * lock_new(PyTypeObject * type, PyObject *, PyObject *) {
    return PyType_GenericAlloc(type, 0);
}

PyObject * lock_locked(PyObject * self, PyObject *) {
    return PyBool_FromLong(reinterpret_cast<Lock *>(self)->owner != 0);
}

PyObject * lock_owner(PyObject * self, void *) {
    return PyLong_FromUnsignedLong(reinterpret_cast<Lock *>(self)->owner);
}

// Exclusive: acquires handles for a block

struct Exclusive {
    PyObject_HEAD PyObject * handles;  // a tuple
    PyObject * value;  // returns what the block gets, or raises; null: it gets the pointer of the first handle
    Lock **    locks;  // those that are held
    Lock *     space[2];
    Py_ssize_t held;
    bool       waits;   // for other threads
    bool       closed;  // acquires closed handles too
};

void exclusive_release(Exclusive * self) {
    while (self->held > 0) {
        Lock * lock = self->locks[--self->held];
        lock->owner = 0;
        Py_DECREF(reinterpret_cast<PyObject *>(lock));
    }
}

void exclusive_dealloc(PyObject * object) {
    auto * self = reinterpret_cast<Exclusive *>(object);
    if (self->held > 0) {
        exclusive_release(self);
    }
    if (self->locks != self->space) {
        PyMem_Free(self->locks);
    }
    Py_XDECREF(self->handles);
    Py_XDECREF(self->value);
    deallocate(object);
}

/* Releases everything and lets a method of a handle raise. Returns null. */
PyObject * exclusive_refuse(Exclusive * self, PyObject * handle, PyObject * method) {
    exclusive_release(self);
    PyObject * result = PyObject_CallMethodObjArgs(handle, method, nullptr);
    if (result != nullptr) {
        Py_DECREF(result);
        PyErr_SetString(PyExc_SystemError, "a handle that cannot be acquired did not raise");
    }
    return nullptr;
}

/* Acquires a lock. Returns 1; 0 if it is in use, or if waiting would never end; -1 if a signal handler raised. */
int lock_acquire(Lock * lock, bool waits) {
    const unsigned long me = PyThread_get_thread_ident();
    while (lock->owner != 0) {
        if (!waits || lock->owner == me || shim_in_callback()) {
            return 0;
        }
        PyThreadState * state = PyEval_SaveThread();
        usleep(200);  // the holder computes for milliseconds
        PyEval_RestoreThread(state);
        if (lock->owner != 0 && PyErr_CheckSignals() != 0) {
            return -1;
        }
    }
    lock->owner = me;
    return 1;
}

PyObject * raised;  // callbacks.raised: thread -> the exception of a callback

/* Drops the exception of a callback of an earlier call, which was interrupted before it could raise it. False on error. */
bool forget_raised() {
    if (raised == nullptr || PyDict_Size(raised) == 0 || shim_in_callback()) {
        return true;
    }
    PyObject * thread = PyLong_FromUnsignedLong(PyThread_get_thread_ident());
    if (thread != nullptr && PyDict_DelItem(raised, thread) != 0) {
        PyErr_Clear();  // it has none
    }
    Py_XDECREF(thread);
    return thread != nullptr;
}

/* keep_raised(type, error, traceback): a function of C, in which no signal handler runs. */
PyObject * keep_raised(PyObject *, PyObject * arguments) {
    PyObject * error  = PyTuple_GetItem(arguments, 1);
    PyObject * thread = error != nullptr ? PyLong_FromUnsignedLong(PyThread_get_thread_ident()) : nullptr;
    const int  found  = thread == nullptr ? -1 : PyDict_Contains(raised, thread);
    const bool failed = found < 0 || (found == 0 && PyDict_SetItem(raised, thread, error) != 0);
    Py_XDECREF(thread);
    return failed ? nullptr : Py_NewRef(Py_None);
}

PyObject * forget_raised_in(PyObject *, PyObject * dict) {
    if (dict != Py_None && raised == nullptr) {
        raised = Py_NewRef(dict);
    }
    return forget_raised() ? Py_NewRef(Py_None) : nullptr;
}

PyObject * exclusive_enter(PyObject * object, PyObject *) {
    auto * self = reinterpret_cast<Exclusive *>(object);
    if (!forget_raised()) {
        return nullptr;
    }
    const Py_ssize_t n = PyTuple_Size(self->handles);
    while (self->held < n) {
        PyObject * handle = PyTuple_GetItem(self->handles, self->held);
        PyObject * lock   = PyObject_GetAttr(handle, name_busy);
        if (lock == nullptr) {
            exclusive_release(self);
            return nullptr;
        }
        if (Py_TYPE(lock) != lock_type) {
            Py_DECREF(lock);
            exclusive_release(self);
            PyErr_SetString(PyExc_TypeError, "expected the lock of a handle");
            return nullptr;
        }
        const int acquired = lock_acquire(reinterpret_cast<Lock *>(lock), self->waits);
        if (acquired != 1) {
            Py_DECREF(lock);
            if (acquired == 0) {
                return exclusive_refuse(self, handle, name_raise_busy);
            }
            exclusive_release(self);
            return nullptr;
        }
        self->locks[self->held++] = reinterpret_cast<Lock *>(lock);
    }
    if (self->closed || n == 0) {
        return Py_NewRef(Py_None);
    }
    PyObject * first = nullptr;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject * handle  = PyTuple_GetItem(self->handles, i);
        PyObject * pointer = PyObject_GetAttr(handle, name_pointer);
        PyObject * closing = pointer != nullptr ? PyObject_GetAttr(handle, name_closing) : nullptr;
        const int  refused = closing != nullptr ? pointer == Py_None || PyObject_IsTrue(closing) : -1;
        Py_XDECREF(closing);
        if (i == 0 && refused == 0) {
            first = pointer;
        } else {
            Py_XDECREF(pointer);
        }
        if (refused != 0) {
            Py_XDECREF(first);
            if (refused > 0) {
                return exclusive_refuse(self, handle, name_raise_closed);
            }
            exclusive_release(self);
            return nullptr;
        }
    }
    if (self->value == nullptr) {
        return first;
    }
    Py_XDECREF(first);
    PyObject * value = PyObject_CallObject(self->value, nullptr);
    if (value == nullptr) {
        exclusive_release(self);
    }
    return value;
}

PyObject * exclusive_exit(PyObject * object, PyObject *) {
    exclusive_release(reinterpret_cast<Exclusive *>(object));
    return Py_NewRef(Py_None);
}

PyObject * make_exclusive(PyObject * handles, PyObject * value, bool waits, bool closed) {
    auto * self = allocate<Exclusive>(exclusive_type);
    if (self == nullptr) {
        return nullptr;
    }
    const Py_ssize_t n = PyTuple_Size(handles);
    self->locks        = self->space;
    if (n > 2) {
        auto * more = static_cast<Lock **>(PyMem_Malloc(n * sizeof(Lock *)));
        if (more == nullptr) {
            Py_DECREF(reinterpret_cast<PyObject *>(self));
            return PyErr_NoMemory();
        }
        self->locks = more;
    }
    self->handles = Py_NewRef(handles);
    self->value   = Py_XNewRef(value);
    self->waits   = waits;
    self->closed  = closed;
    return reinterpret_cast<PyObject *>(self);
}

PyObject * exclusive(PyObject *, PyObject * handles) {
    return make_exclusive(handles, nullptr, false, false);
}

PyObject * exclusive_waiting(PyObject *, PyObject * handles) {
    return make_exclusive(handles, nullptr, true, false);
}

PyObject * exclusive_closing(PyObject *, PyObject * handles) {
    return make_exclusive(handles, nullptr, true, true);
}

PyObject * exclusive_for(PyObject *, PyObject * arguments) {
    const Py_ssize_t n       = PyTuple_Size(arguments);
    PyObject *       handles = PyTuple_GetSlice(arguments, 1, n);
    if (handles == nullptr || n == 0) {
        Py_XDECREF(handles);
        PyErr_SetString(PyExc_TypeError, "expected a function and handles");
        return nullptr;
    }
    PyObject * result = make_exclusive(handles, PyTuple_GetItem(arguments, 0), false, false);
    Py_DECREF(handles);
    return result;
}

// Hold: acquires anything for a block

struct Hold {
    PyObject_HEAD PyObject * acquire;
    PyObject *               release;
    PyObject *               refuse;  // raises if `acquire` returned False; null: False is a result as any other
    bool                     held;
};

/* Returns false with an exception set if the release failed. */
bool hold_release(Hold * self) {
    if (!self->held) {
        return true;
    }
    self->held        = false;
    PyObject * result = PyObject_CallObject(self->release, nullptr);
    Py_XDECREF(result);
    return result != nullptr;
}

void hold_dealloc(PyObject * object) {
    auto * self = reinterpret_cast<Hold *>(object);
    if (self->held) {
        const KeepError kept;
        if (!hold_release(self)) {
            PyErr_WriteUnraisable(nullptr);
        }
    }
    Py_XDECREF(self->acquire);
    Py_XDECREF(self->release);
    Py_XDECREF(self->refuse);
    deallocate(object);
}

PyObject * hold_enter(PyObject * object, PyObject *) {
    auto *     self   = reinterpret_cast<Hold *>(object);
    PyObject * result = PyObject_CallObject(self->acquire, nullptr);
    if (result == nullptr) {
        return nullptr;
    }
    if (result == Py_False && self->refuse != nullptr) {
        Py_DECREF(result);
        return PyObject_CallObject(self->refuse, nullptr);
    }
    self->held = true;
    return result;
}

/* An exception that leaves the block is more important than one of the release. */
PyObject * hold_exit(PyObject * object, PyObject * error) {
    if (!hold_release(reinterpret_cast<Hold *>(object))) {
        if (PyTuple_Size(error) == 0 || PyTuple_GetItem(error, 0) == Py_None) {
            return nullptr;
        }
        PyErr_Clear();
    }
    return Py_NewRef(Py_None);
}

PyObject * hold(PyObject *, PyObject * arguments) {
    PyObject *acquire, *release, *refuse = nullptr;
    if (!PyArg_ParseTuple(arguments, "OO|O:hold", &acquire, &release, &refuse)) {
        return nullptr;
    }
    auto * self = allocate<Hold>(hold_type);
    if (self != nullptr) {
        self->acquire = Py_NewRef(acquire);
        self->release = Py_NewRef(release);
        self->refuse  = Py_XNewRef(refuse);
    }
    return reinterpret_cast<PyObject *>(self);
}

// Several calls at once

/* Calls a tuple of a function and its arguments. */
PyObject * call(PyObject * what) {
    const Py_ssize_t n = PyTuple_Check(what) ? PyTuple_Size(what) : 0;
    if (n == 0) {
        PyErr_SetString(PyExc_TypeError, "expected a tuple of a function and its arguments");
        return nullptr;
    }
    PyObject * arguments = PyTuple_GetSlice(what, 1, n);
    PyObject * result    = arguments ? PyObject_CallObject(PyTuple_GetItem(what, 0), arguments) : nullptr;
    Py_XDECREF(arguments);
    return result;
}

/* atomic(calls, undo=()): makes these calls. If one raises, makes the calls of `undo`, and raises. */
PyObject * atomic(PyObject *, PyObject * arguments, PyObject * keywords) {
    PyObject *calls, *undo = nullptr;
    char      calls_name[] = "calls", undo_name[] = "undo";
    char *    names[] = {calls_name, undo_name, nullptr};
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!|O!:atomic", names, &PyTuple_Type, &calls, &PyTuple_Type,
                                     &undo)) {
        return nullptr;
    }
    for (Py_ssize_t i = 0; i < PyTuple_Size(calls); i++) {
        PyObject * result = call(PyTuple_GetItem(calls, i));
        if (result == nullptr) {
            const KeepError kept;
            for (Py_ssize_t k = 0; undo != nullptr && k < PyTuple_Size(undo); k++) {
                PyObject * undone = call(PyTuple_GetItem(undo, k));
                if (undone == nullptr) {
                    PyErr_WriteUnraisable(undo);
                }
                Py_XDECREF(undone);
            }
            break;
        }
        Py_DECREF(result);
    }
    return PyErr_Occurred() ? nullptr : Py_NewRef(Py_None);
}

// Owned: a C object with a single owner

struct Owned {
    PyObject_HEAD PyObject * pointer;     // null: it was freed
    PyObject *               free_;       // frees it; null for a pin
    PyObject *               kept;        // a list: what must stay until the C object is freed
    PyObject *               members;     // a list of Owned: C objects that the free of this one frees
    Owned *                  owner;       // whose free frees this one; it has this one in `members`
    Py_ssize_t               dependents;  // how many others keep this one
    Py_ssize_t               pins;        // how many of these are pins
    bool                     pending;     // to be freed after the last dependent
    bool                     is_pin;
};

bool is_owned(PyObject * object) {
    return Py_TYPE(object) == owned_type;
}

bool owned_finish(Owned * self);

void finish_silently(Owned * self) {
    const KeepError kept;
    if (!owned_finish(self)) {
        PyErr_WriteUnraisable(nullptr);
    }
}

/* Lets go of what this one has kept, and frees what waited for that. */
void release_kept(Owned * self) {
    PyObject * list = self->kept;
    self->kept      = nullptr;
    for (Py_ssize_t i = 0; list != nullptr && i < PyList_Size(list); i++) {
        PyObject * item = PyList_GetItem(list, i);
        if (is_owned(item)) {
            auto * kept = reinterpret_cast<Owned *>(item);
            kept->dependents--;
            kept->pins -= self->is_pin;
            if (kept->pending) {
                finish_silently(kept);
            }
        }
    }
    Py_XDECREF(list);
}

void forget_pointer(Owned * self) {
    PyObject * pointer = self->pointer;
    self->pointer      = nullptr;
    alive -= pointer != nullptr;
    Py_XDECREF(pointer);
}

/* The members were freed with their owner. */
void release_members(Owned * self) {
    PyObject * list = self->members;
    self->members   = nullptr;
    for (Py_ssize_t i = 0; list != nullptr && i < PyList_Size(list); i++) {
        auto * member = reinterpret_cast<Owned *>(PyList_GetItem(list, i));
        member->owner = nullptr;
        forget_pointer(member);
        release_members(member);
        release_kept(member);
    }
    Py_XDECREF(list);
}

/* Calls `use` for each Owned that this one keeps and that only waits for its dependents. */
template <typename F> void each_pending(Owned * self, F use) {
    for (Py_ssize_t i = 0; self->kept != nullptr && i < PyList_Size(self->kept); i++) {
        PyObject * item = PyList_GetItem(self->kept, i);
        auto *     kept = reinterpret_cast<Owned *>(item);
        if (is_owned(item) && kept->pending && kept->pointer != nullptr && kept->owner == nullptr) {
            use(kept);
        }
    }
}

/* Returns the objects that wait for each other, this one among them, if nothing else keeps one of them. As each counts
 * the others as dependents, none would ever be freed. */
std::vector<Owned *> ring_of(Owned * self) {
    std::unordered_map<Owned *, Py_ssize_t> times{{self, 0}};  // how often others of these keep an object
    std::vector<Owned *>                    found{self};
    for (size_t i = 0; i < found.size(); i++) {
        each_pending(found[i], [&](Owned * kept) {
            if (times[kept]++ == 0 && kept != self) {
                found.push_back(kept);
            }
        });
    }
    std::vector<Owned *> used;  // what others keep, and what these keep
    for (Owned * one : found) {
        if (one->dependents > times[one]) {
            used.push_back(one);
            times.erase(one);
        }
    }
    for (size_t i = 0; i < used.size(); i++) {
        each_pending(used[i], [&](Owned * kept) {
            if (times.erase(kept) != 0) {
                used.push_back(kept);
            }
        });
    }
    std::vector<Owned *> ring;
    for (Owned * one : found) {
        if (times.count(one) != 0) {
            ring.push_back(one);
        }
    }
    return times.count(self) != 0 ? ring : std::vector<Owned *>();
}

/* Frees the ring that this one is part of, if there is one. What a free raises is reported, as in a destructor. */
void finish_ring(Owned * self) {
    try {
        const std::vector<Owned *> ring = ring_of(self);
        std::vector<PyObject *>    pointers;
        pointers.reserve(ring.size());
        for (Owned * one : ring) {
            Py_INCREF(reinterpret_cast<PyObject *>(one));
            pointers.push_back(one->pointer);
            one->pointer = nullptr;  // another thread may run meanwhile
        }
        for (size_t i = 0; i < ring.size(); i++) {
            PyObject * result = nullptr;
            {
                const KeepError kept;
                result = PyObject_CallFunctionObjArgs(ring[i]->free_, pointers[i], nullptr);
                if (result == nullptr) {
                    PyErr_WriteUnraisable(ring[i]->free_);
                }
            }
            Py_XDECREF(result);
            Py_DECREF(pointers[i]);
            alive--;
        }
        for (Owned * one : ring) {
            release_members(one);
            release_kept(one);
        }
        for (Owned * one : ring) {
            Py_DECREF(reinterpret_cast<PyObject *>(one));
        }
    } catch (const std::bad_alloc &) {
        // it is tried again when one of them is finished again
    }
}

/* Frees the C object, unless its owner will; after the last dependent. Returns false with an exception set if the
 * function that frees it raised; then the object can be finished again. */
bool owned_finish(Owned * self) {
    if (self->owner != nullptr) {
        return true;
    }
    if (self->pointer == nullptr) {
        release_kept(self);
        return true;
    }
    if (self->dependents > 0) {
        self->pending = true;
        if (self->kept != nullptr && PyList_Size(self->kept) > 0) {
            finish_ring(self);
        }
        return true;
    }
    PyObject * pointer = self->pointer;
    self->pointer      = nullptr;  // another thread may run meanwhile
    PyObject * result  = PyObject_CallFunctionObjArgs(self->free_, pointer, nullptr);
    if (result == nullptr) {
        self->pointer = pointer;
        return false;
    }
    Py_DECREF(result);
    Py_DECREF(pointer);
    alive--;
    release_members(self);
    release_kept(self);
    return true;
}

int owned_traverse(PyObject * object, visitproc visit, void * arg) {
    auto * self = reinterpret_cast<Owned *>(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->pointer);
    Py_VISIT(self->free_);
    Py_VISIT(self->kept);
    Py_VISIT(self->members);
    return 0;
}

void owned_finalize(PyObject * object) {
    finish_silently(reinterpret_cast<Owned *>(object));
}

/* After all finalizers of a reference cycle. What is not freed by now never is: C may still use it. */
int owned_clear(PyObject * object) {
    auto * self = reinterpret_cast<Owned *>(object);
    if (self->pointer == nullptr) {
        release_members(self);
        release_kept(self);
    }
    return 0;
}

void owned_dealloc(PyObject * object) {
    auto * self = reinterpret_cast<Owned *>(object);
    PyObject_GC_UnTrack(object);
    finish_silently(self);
    Py_XDECREF(self->pointer);  // what was not freed by now still counts: it has leaked
    Py_XDECREF(self->free_);
    Py_XDECREF(self->kept);
    Py_XDECREF(self->members);
    PyTypeObject * type = Py_TYPE(object);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

Owned * new_owned(PyObject * free_) {
    auto * self = allocate<Owned>(owned_type);
    if (self == nullptr) {
        return nullptr;
    }
    self->free_   = Py_XNewRef(free_);
    self->kept    = PyList_New(0);
    self->members = PyList_New(0);
    if (self->kept == nullptr || self->members == nullptr) {
        Py_DECREF(reinterpret_cast<PyObject *>(self));
        return nullptr;
    }
    return self;
}

void take_pointer(Owned * self, PyObject * pointer) {
    self->pointer = pointer;
    alive++;
}

/* own(free, make, *args): calls `make(*args)` and owns the C object that it returns, if that is not NULL. */
PyObject * own(PyObject *, PyObject * arguments) {
    const Py_ssize_t n = PyTuple_Size(arguments);
    if (n < 2) {
        PyErr_SetString(PyExc_TypeError, "expected two functions");
        return nullptr;
    }
    Owned *    self = new_owned(PyTuple_GetItem(arguments, 0));
    PyObject * rest = self != nullptr ? PyTuple_GetSlice(arguments, 1, n) : nullptr;
    PyObject * made = rest != nullptr ? call(rest) : nullptr;
    Py_XDECREF(rest);
    const int some = made == nullptr ? -1 : PyLong_Check(made) ? 1 : PyObject_IsTrue(made);  // a file can be number 0
    if (some == 1) {
        take_pointer(self, made);
    } else {
        Py_XDECREF(made);
    }
    if (some < 0) {
        Py_XDECREF(reinterpret_cast<PyObject *>(self));
        return nullptr;
    }
    return reinterpret_cast<PyObject *>(self);
}

bool keep(Owned * self, PyObject * item) {
    if (self->kept == nullptr || PyList_Append(self->kept, item) != 0) {
        return false;
    }
    if (is_owned(item)) {
        reinterpret_cast<Owned *>(item)->dependents++;
        reinterpret_cast<Owned *>(item)->pins += self->is_pin;
    }
    return true;
}

bool is_freed(Owned * self) {
    return self->pointer == nullptr || self->pending || self->kept == nullptr;
}

PyObject * owned_keep(PyObject * object, PyObject * item) {
    auto * self = reinterpret_cast<Owned *>(object);
    if (is_freed(self) || (is_owned(item) && is_freed(reinterpret_cast<Owned *>(item)))) {
        return Py_NewRef(Py_False);
    }
    return keep(self, item) ? Py_NewRef(Py_True) : nullptr;
}

PyObject * owned_pin(PyObject * object, PyObject *) {
    if (is_freed(reinterpret_cast<Owned *>(object))) {
        return Py_NewRef(Py_None);
    }
    Owned * pin = new_owned(nullptr);
    if (pin != nullptr) {
        pin->is_pin = true;
        if (!keep(pin, object)) {
            Py_DECREF(reinterpret_cast<PyObject *>(pin));
            return nullptr;
        }
    }
    return reinterpret_cast<PyObject *>(pin);
}

/* Moves this object into the members of another one, or out of them. */
PyObject * owned_lend(PyObject * object, PyObject * target) {
    auto * self = reinterpret_cast<Owned *>(object);
    if (target != Py_None) {
        auto * owner = is_owned(target) ? reinterpret_cast<Owned *>(target) : nullptr;
        if (owner == nullptr || owner == self || is_freed(owner) || is_freed(self) || self->owner != nullptr ||
            owner->members == nullptr) {
            PyErr_SetString(PyExc_ValueError, "this object cannot be lent");
            return nullptr;
        }
        if (PyList_Append(owner->members, object) != 0) {
            return nullptr;
        }
        self->owner = owner;
        return Py_NewRef(Py_None);
    }
    Owned * owner = self->owner;
    self->owner   = nullptr;
    for (Py_ssize_t i = 0; owner != nullptr && i < PyList_Size(owner->members); i++) {
        if (PyList_GetItem(owner->members, i) == object) {
            return PyList_SetSlice(owner->members, i, i + 1, nullptr) == 0 ? Py_NewRef(Py_None) : nullptr;
        }
    }
    return Py_NewRef(Py_None);
}

/* An Owned for a C object inside this one, which the free of this one frees. */
PyObject * owned_part(PyObject * object, PyObject * pointer) {
    auto *  self = reinterpret_cast<Owned *>(object);
    Owned * part = new_owned(self->free_);
    if (part == nullptr) {
        return nullptr;
    }
    if (is_freed(self) || PyList_Append(self->members, reinterpret_cast<PyObject *>(part)) != 0) {
        Py_DECREF(reinterpret_cast<PyObject *>(part));
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "this object was freed");
        }
        return nullptr;
    }
    part->owner = self;
    take_pointer(part, Py_NewRef(pointer));
    return reinterpret_cast<PyObject *>(part);
}

PyObject * owned_finish_method(PyObject * object, PyObject *) {
    return owned_finish(reinterpret_cast<Owned *>(object)) ? Py_NewRef(Py_None) : nullptr;
}

/* Never frees the C object: a failed call may have left it half-changed. What it keeps stays as well. */
PyObject * owned_abandon(PyObject * object, PyObject *) {
    auto * self = reinterpret_cast<Owned *>(object);
    if (self->pointer != nullptr && self->owner == nullptr) {
        Py_INCREF(object);
        forget_pointer(self);
        self->free_ = nullptr;
    }
    return Py_NewRef(Py_None);
}

/* A pin, for `with`: the block gets the pointer of what it pins. */
PyObject * owned_enter(PyObject * object, PyObject *) {
    auto *     self   = reinterpret_cast<Owned *>(object);
    PyObject * pinned = self->is_pin && self->kept != nullptr ? PyList_GetItem(self->kept, 0) : nullptr;
    if (pinned == nullptr) {
        PyErr_SetString(PyExc_TypeError, "expected a pin");
        return nullptr;
    }
    return Py_XNewRef(reinterpret_cast<Owned *>(pinned)->pointer);
}

PyObject * owned_get_pointer(PyObject * object, void *) {
    PyObject * pointer = reinterpret_cast<Owned *>(object)->pointer;
    return Py_NewRef(pointer != nullptr ? pointer : Py_None);
}

PyObject * owned_get_dependents(PyObject * object, void *) {
    return PyLong_FromSsize_t(reinterpret_cast<Owned *>(object)->dependents);
}

PyObject * owned_get_pins(PyObject * object, void *) {
    return PyLong_FromSsize_t(reinterpret_cast<Owned *>(object)->pins);
}

PyObject * n_owned(PyObject *, PyObject *) {
    return PyLong_FromSsize_t(alive);
}

// The types

PyMethodDef lock_methods[] = {{"locked", lock_locked, METH_NOARGS, "True if a call uses the handle."}, {}};
PyGetSetDef lock_fields[]  = {{"owner", lock_owner, nullptr, "The thread that has acquired it; 0: none.", nullptr}, {}};
PyType_Slot lock_slots[]   = {{Py_tp_new, reinterpret_cast<void *>(lock_new)},
                              {Py_tp_dealloc, reinterpret_cast<void *>(deallocate)},
                              {Py_tp_methods, lock_methods},
                              {Py_tp_getset, lock_fields},
                              {}};
PyType_Spec lock_spec      = {"llama_cffi._native.Lock", sizeof(Lock), 0, Py_TPFLAGS_DEFAULT, lock_slots};

PyMethodDef exclusive_methods[] = {
    {"__enter__", exclusive_enter, METH_NOARGS, nullptr}, {"__exit__", exclusive_exit, METH_VARARGS, nullptr}, {}};
PyType_Slot exclusive_slots[] = {
    {Py_tp_dealloc, reinterpret_cast<void *>(exclusive_dealloc)}, {Py_tp_methods, exclusive_methods}, {}};
PyType_Spec exclusive_spec = {"llama_cffi._native.Exclusive", sizeof(Exclusive), 0,
                              Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, exclusive_slots};

PyMethodDef hold_methods[] = {
    {"__enter__", hold_enter, METH_NOARGS, nullptr}, {"__exit__", hold_exit, METH_VARARGS, nullptr}, {}};
PyType_Slot hold_slots[] = {{Py_tp_dealloc, reinterpret_cast<void *>(hold_dealloc)}, {Py_tp_methods, hold_methods}, {}};
PyType_Spec hold_spec    = {"llama_cffi._native.Hold", sizeof(Hold), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, hold_slots};

PyMethodDef owned_methods[] = {
    {"keep", owned_keep, METH_O, "Keeps an object until the C object is freed. False if either was freed already."},
    {"pin", owned_pin, METH_NOARGS, "An Owned that delays the free until its own `finish`; None if it was freed."},
    {"lend", owned_lend, METH_O, "Another object, whose free frees this one, owns it from now on; None: nothing does."},
    {"part", owned_part, METH_O, "An Owned for a C object inside this one."},
    {"finish", owned_finish_method, METH_VARARGS, "Frees the C object, now or after what depends on it."},
    {"__enter__", owned_enter, METH_NOARGS, nullptr},
    {"__exit__", owned_finish_method, METH_VARARGS, nullptr},
    {"abandon", owned_abandon, METH_NOARGS, "Never frees the C object."},
    {}};
PyGetSetDef owned_fields[] = {
    {"pointer", owned_get_pointer, nullptr, "The C pointer; None if it was NULL, or is freed.", nullptr},
    {"dependents", owned_get_dependents, nullptr, "How many others delay the free.", nullptr},
    {"pins", owned_get_pins, nullptr, "How many of these are pins.", nullptr},
    {}};
PyType_Slot owned_slots[] = {{Py_tp_dealloc, reinterpret_cast<void *>(owned_dealloc)},
                             {Py_tp_traverse, reinterpret_cast<void *>(owned_traverse)},
                             {Py_tp_clear, reinterpret_cast<void *>(owned_clear)},
                             {Py_tp_finalize, reinterpret_cast<void *>(owned_finalize)},
                             {Py_tp_methods, owned_methods},
                             {Py_tp_getset, owned_fields},
                             {}};
PyType_Spec owned_spec    = {"llama_cffi._native.Owned", sizeof(Owned), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, owned_slots};

PyMethodDef functions[] = {{"own", own, METH_VARARGS, nullptr},
                           {"exclusive", exclusive, METH_VARARGS, nullptr},
                           {"exclusive_waiting", exclusive_waiting, METH_VARARGS, nullptr},
                           {"exclusive_closing", exclusive_closing, METH_VARARGS, nullptr},
                           {"exclusive_for", exclusive_for, METH_VARARGS, nullptr},
                           {"hold", hold, METH_VARARGS, nullptr},
                           {"atomic", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(atomic)),
                            METH_VARARGS | METH_KEYWORDS, nullptr},
                           {"large_stack", large_stack, METH_VARARGS, nullptr},
                           {"forget_raised", forget_raised_in, METH_O, nullptr},
                           {"keep_raised", keep_raised, METH_VARARGS, nullptr},
                           {"n_owned", n_owned, METH_NOARGS, nullptr},
                           {}};

bool add_type(PyObject * module, PyTypeObject *& type, PyType_Spec & spec, const char * name) {
    type = reinterpret_cast<PyTypeObject *>(PyType_FromSpec(&spec));
    return type != nullptr && PyModule_AddObjectRef(module, name, reinterpret_cast<PyObject *>(type)) == 0;
}

bool intern(PyObject *& name, const char * text) {
    name = PyUnicode_InternFromString(text);
    return name != nullptr;
}

}  // namespace

bool ownership_install() {
    if (owned_type != nullptr) {
        return true;
    }
    PyObject * module = PyImport_AddModule("llama_cffi._native");  // borrowed
    return module != nullptr && intern(name_busy, "_busy") && intern(name_pointer, "_pointer") &&
           intern(name_closing, "_closing") && intern(name_raise_busy, "_raise_busy") &&
           intern(name_raise_closed, "_raise_closed") && add_type(module, lock_type, lock_spec, "Lock") &&
           add_type(module, exclusive_type, exclusive_spec, "Exclusive") &&
           add_type(module, hold_type, hold_spec, "Hold") && add_type(module, owned_type, owned_spec, "Owned") &&
           PyModule_AddFunctions(module, functions) == 0;
}
