/* Included before every C++ file of llama.cpp's RPC module, by the build (see __init__.py). With it, losing a worker
 * does not end the process that uses it.
 *
 * ggml-rpc.cpp talks to a worker on a thread of its own, the dispatcher. When the connection breaks, that thread calls
 * GGML_ABORT; an exception could not be caught there. Messages are enqueued for the dispatcher inside GGML_ASSERT. So
 * both macros are redefined here, and look at the variables around them, by name:
 *
 *   - GGML_ABORT where a message `msg_ptr` is being sent through `sock` marks the connection as lost, fills the answer
 *     with zeros, and returns. The thread that waits for this message wakes up, and so does every later one.
 *   - GGML_ASSERT where a message `msg` is enqueued notes that this thread has used the connection.
 *
 * At the end of each call the guard asks llama_cffi_rpc_lost (llama_cffi/_shim/call.cpp), and raises. In code without
 * such variables both macros do what llama.cpp's do.
 *
 * The second half of this file watches the module's sockets. */
#if defined(GGML_BACKEND_BUILD) && defined(__linux__)  // not ggml-base, which is compiled beside the module
#pragma once

#include "ggml.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

/* What the build looks for in the module. Templates: only a use of the hook that each is named after emits it. */
__attribute__((used, visibility("hidden"))) inline constexpr char llama_cffi_rpc_lost_needed = 0;
template <typename>
__attribute__((used, visibility("hidden"))) inline constexpr char llama_cffi_rpc_lost_enqueue_hooked = 0;
template <typename>
__attribute__((used, visibility("hidden"))) inline constexpr char llama_cffi_rpc_lost_abort_hooked = 0;
template <typename>
__attribute__((used, visibility("hidden"))) inline constexpr char llama_cffi_rpc_lost_sockets_hooked = 0;

namespace llama_cffi_rpc __attribute__((visibility("hidden"))) {

/* The type of `msg`, `msg_ptr` and `sock` where the surrounding code has no variable of that name. */
struct Nothing {};

template <typename M> using Command = std::decay_t<decltype(std::declval<M>()->cmd)>;

template <typename M, typename S, typename = void> constexpr bool IS_MESSAGE = false;

template <typename M, typename S>
constexpr bool IS_MESSAGE<
    M, S,
    std::void_t<decltype(std::declval<M>()->output), decltype(std::declval<M>()->output_size),
                decltype(Command<M>::RPC_CMD_BUFFER_GET_BASE), decltype(Command<M>::RPC_CMD_GET_MAX_SIZE),
                decltype(Command<M>::RPC_CMD_GET_ALLOC_SIZE), decltype(Command<M>::RPC_CMD_SET_TENSOR)>> =
    std::is_convertible_v<S, std::weak_ptr<const void>>;

struct Connection {
    std::weak_ptr<const void> socket;  // identifies the connection; nothing is read through it
    pid_t                     process = getpid();
    bool                      lost    = false;
    std::string               peer    = {};  // the worker's address, once it is lost
};

/* A connection that a thread has used, and the number of the last message it sent there. */
struct Use {
    std::shared_ptr<Connection> connection;
    size_t                      message;
};

inline std::mutex mutex;  // guards the connections

inline std::vector<std::shared_ptr<Connection>> & connections() {
    static auto * all = new std::vector<std::shared_ptr<Connection>>;  // never destroyed: threads may outlive exit
    return *all;
}

inline thread_local std::vector<Use> uses;
inline thread_local size_t           messages = 0;  // enqueued by this thread so far

/* On a dispatcher's thread: its socket, and the worker's address. */
inline thread_local int  own_socket = -1;
inline thread_local char own_peer[INET_ADDRSTRLEN + 8];

/* True if this thread has opened a connection: then it is not a dispatcher's. */
inline thread_local bool connects = false;

inline std::shared_ptr<Connection> find(const std::weak_ptr<const void> & socket) {
    auto & all = connections();
    const auto closed = [](const auto & one) { return one->socket.expired(); };
    all.erase(std::remove_if(all.begin(), all.end(), closed), all.end());
    for (const auto & one : all) {
        if (!one->socket.owner_before(socket) && !socket.owner_before(one->socket)) {
            return one;
        }
    }
    all.push_back(std::make_shared<Connection>());
    all.back()->socket = socket;
    return all.back();
}

/* Called before a message is enqueued. Once the worker is lost, two kinds of message throw: those whose answers the
 * module caches, and those that upload weights. llama.cpp cleans up after the exception, the guard says what failed. */
template <typename M, typename S> void on_enqueue(const M & message, const S & socket) {
    if constexpr (IS_MESSAGE<M, S>) {
        (void) &llama_cffi_rpc_lost_enqueue_hooked<M>;
        const std::lock_guard<std::mutex> lock(mutex);
        const auto                        connection = find(socket);
        if (connection->process != getpid()) {
            ggml_abort(__FILE__, __LINE__, "An RPC connection belongs to the process that this one was forked from");
        }
        messages++;
        const auto same = [&](const Use & use) { return use.connection == connection; };
        const auto use  = std::find_if(uses.begin(), uses.end(), same);
        if (use != uses.end()) {
            use->message = messages;
        } else {
            const auto closed = [](const Use & one) { return one.connection->socket.expired(); };
            uses.erase(std::remove_if(uses.begin(), uses.end(), closed), uses.end());
            uses.push_back({connection, messages});
        }
        using C        = Command<M>;
        const auto cmd = message->cmd;
        if (connection->lost &&
            (cmd == C::RPC_CMD_GET_MAX_SIZE || cmd == C::RPC_CMD_GET_ALLOC_SIZE || cmd == C::RPC_CMD_SET_TENSOR)) {
            throw std::runtime_error("the RPC server " + connection->peer + " was lost");
        }
    }
}

/* Called on a dispatcher's thread when a message could not be sent or was not answered. */
template <typename M, typename S> void on_lost(const M & message, const S & socket) {
    if constexpr (IS_MESSAGE<M, S>) {
        (void) &llama_cffi_rpc_lost_abort_hooked<M>;
        {
            const std::lock_guard<std::mutex> lock(mutex);
            const auto                        connection = find(socket);
            connection->lost                             = true;
            connection->peer                             = own_peer;
        }
        if (own_socket >= 0) {
            shutdown(own_socket, SHUT_RDWR);  // later messages fail too; a worker that is still alive can serve others
        }
        if (message->output == nullptr) {
            return;
        }
        memset(message->output, 0, message->output_size);
        /* Zero is not a valid alignment, but the next message is RPC_CMD_GET_MAX_SIZE, which throws. */
        uint64_t answer = 0;
        if (message->cmd == Command<M>::RPC_CMD_BUFFER_GET_BASE) {
            answer = 1 << 20;  // points to no memory, but is not NULL: that would fail an assertion and leak the buffer
        } else if (message->cmd == Command<M>::RPC_CMD_GET_MAX_SIZE) {
            answer = SIZE_MAX;
        }
        if (answer != 0 && message->output_size == sizeof(answer)) {
            memcpy(message->output, &answer, sizeof(answer));
        }
    }
}

}  // namespace llama_cffi_rpc

extern "C" {

/* The number of messages that this thread has enqueued. */
__attribute__((visibility("default"), used)) inline size_t llama_cffi_rpc_messages(void) {
    return llama_cffi_rpc::messages;
}

/* The address of a lost worker to which this thread has sent a message after its first `since` messages; null if there
 * is none. Valid until the next call on this thread. */
__attribute__((visibility("default"), used)) inline const char * llama_cffi_rpc_lost(size_t since) {
    using namespace llama_cffi_rpc;
    static thread_local char peer[sizeof(own_peer)];
    if (messages == since) {
        return nullptr;
    }
    const std::lock_guard<std::mutex> lock(mutex);
    for (const auto & use : uses) {
        if (use.message > since && use.connection->lost) {
            snprintf(peer, sizeof(peer), "%s", use.connection->peer.c_str());
            return peer;
        }
    }
    return nullptr;
}

}  // extern "C"

/* Local variables of llama.cpp with these names hide them. */
inline constexpr llama_cffi_rpc::Nothing msg{};
inline constexpr llama_cffi_rpc::Nothing msg_ptr{};
inline constexpr llama_cffi_rpc::Nothing sock{};

#undef GGML_ABORT
#define GGML_ABORT(...)                                                                \
    do {                                                                               \
        if constexpr (llama_cffi_rpc::IS_MESSAGE<decltype(msg_ptr), decltype(sock)>) { \
            llama_cffi_rpc::on_lost(msg_ptr, sock);                                    \
        } else {                                                                       \
            ggml_abort(__FILE__, __LINE__, __VA_ARGS__);                               \
        }                                                                              \
    } while (0)

#undef GGML_ASSERT
#define GGML_ASSERT(x)                                \
    do {                                              \
        llama_cffi_rpc::on_enqueue(msg, sock);        \
        if (!(x)) {                                   \
            GGML_ABORT("GGML_ASSERT(%s) failed", #x); \
        }                                             \
    } while (0)

/* Sockets. Keep-alive packets detect within a minute that the other machine has vanished, on both sides. A signal that
 * interrupts a dispatcher's thread does not count as a loss. Sending to a closed connection does not raise SIGPIPE. */

namespace llama_cffi_rpc __attribute__((visibility("hidden"))) {

inline void note(int fd) {
    if (connects || fd == own_socket) {
        return;
    }
    own_socket         = fd;
    sockaddr_in where  = {};
    socklen_t   length = sizeof(where);
    char        host[INET_ADDRSTRLEN];
    if (getpeername(fd, reinterpret_cast<sockaddr *>(&where), &length) == 0 &&
        inet_ntop(AF_INET, &where.sin_addr, host, sizeof(host)) != nullptr) {
        snprintf(own_peer, sizeof(own_peer), "%s:%u", host, static_cast<unsigned>(ntohs(where.sin_port)));
    }
}

}  // namespace llama_cffi_rpc

inline int llama_cffi_rpc_setsockopt(int fd, int level, int option, const void * value, socklen_t size) {
    llama_cffi_rpc::connects = true;
    if (level == IPPROTO_TCP && option == TCP_NODELAY) {
        const struct { int level, option, value; } rows[] = {
            {SOL_SOCKET, SO_KEEPALIVE, 1},
            {IPPROTO_TCP, TCP_KEEPIDLE, 30},  // seconds
            {IPPROTO_TCP, TCP_KEEPINTVL, 10},
            {IPPROTO_TCP, TCP_KEEPCNT, 3},
            {IPPROTO_TCP, TCP_USER_TIMEOUT, 60000},  // milliseconds
        };
        for (const auto & row : rows) {
            setsockopt(fd, row.level, row.option, &row.value, sizeof(row.value));
        }
    }
    return setsockopt(fd, level, option, value, size);
}

template <typename T = void> ssize_t llama_cffi_rpc_send(int fd, const void * data, size_t size, int flags) {
    (void) &llama_cffi_rpc_lost_sockets_hooked<T>;
    llama_cffi_rpc::note(fd);
    ssize_t n;
    do {
        n = send(fd, data, size, flags | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR && !llama_cffi_rpc::connects);
    return n;
}

inline ssize_t llama_cffi_rpc_recv(int fd, void * data, size_t size, int flags) {
    llama_cffi_rpc::note(fd);
    ssize_t n;
    do {
        n = recv(fd, data, size, flags);
    } while (n < 0 && errno == EINTR && !llama_cffi_rpc::connects);
    return n;
}

/* transport.cpp calls these three. They also rename methods of ggml-rpc.cpp (rpc_dispatcher::send), consistently. */
#define setsockopt llama_cffi_rpc_setsockopt
#define send       llama_cffi_rpc_send
#define recv       llama_cffi_rpc_recv

#endif
