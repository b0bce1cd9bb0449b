/* Calls Python code on a thread with a larger stack, and waits for it. */
#include "ownership.hpp"

#include <atomic>
#include <ctime>
#include <new>

#include <pthread.h>

namespace {

struct Work {
    PyObject *       call;
    PyObject *       result = nullptr;
    PyObject *       error[3]{};
    pthread_mutex_t  mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t   ended = PTHREAD_COND_INITIALIZER;
    bool             done  = false;
    std::atomic<int> users{2};  // the caller and the thread
};

/* Call it with the GIL. The last user destroys the work. */
void leave_work(Work * work) {
    if (work->users.fetch_sub(1) > 1) {
        return;
    }
    Py_XDECREF(work->result);
    for (PyObject * part : work->error) {
        Py_XDECREF(part);
    }
    Py_DECREF(work->call);
    delete work;
}

void * run(void * data) {
    auto *                 work  = static_cast<Work *>(data);
    const PyGILState_STATE state = PyGILState_Ensure();
    work->result                 = PyObject_CallObject(work->call, nullptr);
    if (work->result == nullptr) {
        PyErr_Fetch(&work->error[0], &work->error[1], &work->error[2]);
    }
    pthread_mutex_lock(&work->mutex);
    work->done = true;
    pthread_cond_signal(&work->ended);
    pthread_mutex_unlock(&work->mutex);
    leave_work(work);
    PyGILState_Release(state);
    return nullptr;
}

/* Waits up to 50 ms. Returns true if the work is done. */
bool wait(Work & work) {
    timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 50'000'000;
    if (until.tv_nsec >= 1'000'000'000) {
        until.tv_sec++;
        until.tv_nsec -= 1'000'000'000;
    }
    pthread_mutex_lock(&work.mutex);
    if (!work.done) {
        pthread_cond_timedwait(&work.ended, &work.mutex, &until);
    }
    const bool done = work.done;
    pthread_mutex_unlock(&work.mutex);
    return done;
}

}  // namespace

/* large_stack(call, size, leave): what `call()` returns or raises, on a thread with `size` bytes of stack. MemoryError if
 * there is no such thread. If a signal handler raises meanwhile, that is raised: with `leave` at once, while the thread
 * goes on; otherwise when the thread has ended, which may use objects that the caller has acquired. */
PyObject * large_stack(PyObject *, PyObject * arguments) {
    PyObject * call;
    Py_ssize_t size;
    int        leave;
    if (!PyArg_ParseTuple(arguments, "Onp:large_stack", &call, &size, &leave)) {
        return nullptr;
    }
    auto * work = new (std::nothrow) Work{Py_NewRef(call)};
    if (work == nullptr) {
        Py_DECREF(call);
        return PyErr_NoMemory();
    }
    pthread_attr_t attributes;
    pthread_t      thread;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    const bool started = pthread_attr_setstacksize(&attributes, static_cast<size_t>(size)) == 0 &&
                         pthread_create(&thread, &attributes, run, work) == 0;
    pthread_attr_destroy(&attributes);
    if (!started) {
        work->users = 1;
        leave_work(work);
        return PyErr_NoMemory();
    }
    PyObject * signal[3]{};
    bool       done = false;
    while (!done && (signal[0] == nullptr || leave == 0)) {
        PyThreadState * state = PyEval_SaveThread();
        done                  = wait(*work);
        PyEval_RestoreThread(state);
        if (!done && signal[0] == nullptr && PyErr_CheckSignals() != 0) {
            PyErr_Fetch(&signal[0], &signal[1], &signal[2]);
        }
    }
    PyObject * result = nullptr;
    if (signal[0] != nullptr) {
        PyErr_Restore(signal[0], signal[1], signal[2]);
    } else {
        result       = work->result;
        work->result = nullptr;
        if (result == nullptr) {
            PyErr_Restore(work->error[0], work->error[1], work->error[2]);
            work->error[0] = work->error[1] = work->error[2] = nullptr;
        }
    }
    leave_work(work);
    return result;
}
