# Functions of libpq, called by their addresses: pure Python mode has no word for such types.
# Manual: https://www.postgresql.org/docs/current/libpq-copy.html

ctypedef int (*GetCopyData)(void *connection, char **message, int at_once) noexcept nogil
ctypedef void (*Free)(void *message) noexcept nogil
