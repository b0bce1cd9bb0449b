/* Included before the C++ files of llama.cpp's RPC module, by a compiler option: a worker that is lost does not end the
 * program that uses it.
 *
 * ggml-rpc.cpp talks to a worker on a thread of its own, the dispatcher's, and aborts there when the connection ends:
 * nobody could catch an exception on that thread. But it does so by GGML_ABORT, and hands messages to that thread
 * within GGML_ASSERT. Here these macros see the variables around them, by name:
 *
 *   - GGML_ABORT where a message `msg_ptr` is being sent through `sock` notes that the connection is lost, answers the
 *     message with zeros, and returns. Whoever waits for it wakes up, and so do those who come later.
 *   - GGML_ASSERT where a message `msg` is handed over notes that this thread has used the connection.
 *
 * The guard asks llama_cffi_rpc_lost at the end of a call (llama_cffi/_shim/call.cpp), and raises. Everywhere else both
 * macros do what they always do; in a ggml-rpc.cpp that has no such variables they do nothing else.
 *
 * The module's sockets are watched as well: see the second half. */
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

namespace llama_cffi_rpc __attribute__((visibility("hidden"))) {

/* Stands for a message or a socket where the code around has none. */
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
    std::weak_ptr<const void> socket;  // says which one it is; nothing is read through it
    pid_t                     process = getpid();
    bool                      lost    = false;
    std::string               peer    = {};  // where it led to, once it is lost
};

/* A connection that a thread has used, and the number of its last message there. */
struct Use {
    std::shared_ptr<Connection> connection;
    size_t                      message;
};

inline std::mutex mutex;  // guards the connections

inline std::vector<std::shared_ptr<Connection>> & connections() {
    static auto * all = new std::vector<std::shared_ptr<Connection>>;  // threads may outlive what is destroyed at exit
    return *all;
}

inline thread_local std::vector<Use> uses;
inline thread_local size_t           messages = 0;  // that this thread has handed over

/* On a dispatcher's thread: its socket, and where that leads to. */
inline thread_local int  own_socket = -1;
inline thread_local char own_peer[INET_ADDRSTRLEN + 8];

/* Whether this thread has made a connection: then it is not a dispatcher's. */
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

/* Before a message is handed over. What the module would remember for ever if it came from a lost worker, and what
 * loads a model, is refused there; llama.cpp cleans up after the exception, and the guard says what was behind it. */
template <typename M, typename S> void hand(const M & message, const S & socket) {
    if constexpr (IS_MESSAGE<M, S>) {
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

/* On a dispatcher's thread, when a message could not be sent or was not answered. */
template <typename M, typename S> void lose(const M & message, const S & socket) {
    if constexpr (IS_MESSAGE<M, S>) {
        {
            const std::lock_guard<std::mutex> lock(mutex);
            const auto                        connection = find(socket);
            connection->lost                             = true;
            connection->peer                             = own_peer;
        }
        if (own_socket >= 0) {
            shutdown(own_socket, SHUT_RDWR);  // later messages fail too; a worker that still lives is free for others
        }
        if (message->output == nullptr) {
            return;
        }
        memset(message->output, 0, message->output_size);
        /* Zeros are no alignment, but RPC_CMD_GET_MAX_SIZE comes next, and is refused. */
        uint64_t answer = 0;
        if (message->cmd == Command<M>::RPC_CMD_BUFFER_GET_BASE) {
            answer = 1 << 20;  // of memory that is nowhere: NULL would be an assertion, with the buffer left behind
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

/* How many messages this thread has handed over. */
__attribute__((visibility("default"), used)) inline size_t llama_cffi_rpc_messages(void) {
    return llama_cffi_rpc::messages;
}

/* The address of a worker that was lost, and that this thread has used since it had handed over so many messages. Null
 * if there is none. Valid until the next call on this thread. */
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

/* Hidden by variables of the same names. */
inline constexpr llama_cffi_rpc::Nothing msg{};
inline constexpr llama_cffi_rpc::Nothing msg_ptr{};
inline constexpr llama_cffi_rpc::Nothing sock{};

#undef GGML_ABORT
#define GGML_ABORT(...)                                                                \
    do {                                                                               \
        if constexpr (llama_cffi_rpc::IS_MESSAGE<decltype(msg_ptr), decltype(sock)>) { \
            llama_cffi_rpc::lose(msg_ptr, sock);                                       \
        } else {                                                                       \
            ggml_abort(__FILE__, __LINE__, __VA_ARGS__);                               \
        }                                                                              \
    } while (0)

#undef GGML_ASSERT
#define GGML_ASSERT(x)                                \
    do {                                              \
        llama_cffi_rpc::hand(msg, sock);              \
        if (!(x)) {                                   \
            GGML_ABORT("GGML_ASSERT(%s) failed", #x); \
        }                                             \
    } while (0)

/* Sockets. A machine that vanished is noticed within a minute, on both sides; a signal that happens to interrupt a
 * dispatcher's thread is no loss; and none is sent for a connection that the other side has closed. */

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

inline ssize_t llama_cffi_rpc_send(int fd, const void * data, size_t size, int flags) {
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

/* transport.cpp calls these three. Methods of ggml-rpc.cpp that have such a name get another one, which is no harm. */
#define setsockopt llama_cffi_rpc_setsockopt
#define send       llama_cffi_rpc_send
#define recv       llama_cffi_rpc_recv

#endif
