/* What every request and model call ends with: a record in the journal, written without an object per step.

It is never needed: where it is not built, or has a reason to hesitate, journal.py does the same, in the same format.
Nothing here takes a lock, starts a thread or keeps an event. Only the stable ABI of CPython 3.11 is used. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <structmember.h>

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    ROOM = 4096, /* bytes of the longest record written here */
    CLOSE = 2,   /* bytes that end one: a bracket and a newline */
    DIGITS = 20, /* of a 64-bit integer, with its sign */
    HEAD = 9,    /* a newline and the sum in hexadecimal */
    TABLES = 8,  /* bytes that the sum takes at once */
    SLOW = 1000, /* microseconds: where the disk took longer than that for a record, */
    WARY = 1000, /* so many further ones are written without the interpreter's lock */
    LEND = 1500, /* microseconds that the interpreter's lock is kept between two times that it is lent, */
    PAUSE = 500, /* unless as many passed between two records: whoever pauses gives it up without being asked */
};

/* This process's id; to ask for it is a measurable part of a record. */
static pid_t here;

static void
forked(void)
{
    here = getpid();
}

static uint32_t sums[TABLES][256];

/* CRC-32 as zlib and binascii have it, eight bytes at a time. */
static void
make_sums(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t sum = byte;
        for (int bit = 0; bit < 8; bit++) {
            sum = sum & 1 ? 0xedb88320u ^ (sum >> 1) : sum >> 1;
        }
        sums[0][byte] = sum;
    }
    for (int table = 1; table < TABLES; table++) {
        for (int byte = 0; byte < 256; byte++) {
            uint32_t sum = sums[table - 1][byte];
            sums[table][byte] = sums[0][sum & 0xff] ^ (sum >> 8);
        }
    }
}

static uint32_t
crc32_of(const char *text, size_t length)
{
    const unsigned char *byte = (const unsigned char *)text;
    uint32_t sum = 0xffffffffu;
    for (; length >= TABLES; length -= TABLES, byte += TABLES) {
        sum ^= (uint32_t)byte[0] | (uint32_t)byte[1] << 8 | (uint32_t)byte[2] << 16 | (uint32_t)byte[3] << 24;
        sum = sums[7][sum & 0xff] ^ sums[6][sum >> 8 & 0xff] ^ sums[5][sum >> 16 & 0xff] ^ sums[4][sum >> 24]
            ^ sums[3][byte[4]] ^ sums[2][byte[5]] ^ sums[1][byte[6]] ^ sums[0][byte[7]];
    }
    for (; length; length--, byte++) {
        sum = sums[0][(sum ^ *byte) & 0xff] ^ (sum >> 8);
    }
    return ~sum;
}

static char *
put_integer(char *at, long long value)
{
    char digits[DIGITS];
    int count = 0;
    unsigned long long rest = value < 0 ? 0ull - (unsigned long long)value : (unsigned long long)value;
    do {
        digits[count++] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (value < 0) {
        *at++ = '-';
    }
    while (count) {
        *at++ = digits[--count];
    }
    return at;
}

/* Puts one field at `at`, before `end`; NULL where it does not fit or is nothing that is written here. */
static char *
put_field(char *at, const char *end, PyObject *field)
{
    if (PyUnicode_Check(field)) {
        Py_ssize_t length;
        const char *text = PyUnicode_AsUTF8AndSize(field, &length);
        if (text == NULL || length > end - at) {
            return NULL;
        }
        memcpy(at, text, (size_t)length);
        return at + length;
    }
    if (end - at < DIGITS) {
        return NULL;
    }
    if (field == Py_None) {
        memcpy(at, "null", 4);
        return at + 4;
    }
    if (!PyLong_Check(field)) {
        return NULL;
    }
    long long value = PyLong_AsLongLong(field);
    return value == -1 && PyErr_Occurred() ? NULL : put_integer(at, value);
}

typedef struct {
    PyObject_HEAD
    PyObject *accept;
    long long look_every;
    long long number; /* of the latest record */
    int fd;
    int pid;
    int wary; /* so many records are to be written without the interpreter's lock */
    char lending;
    long long lent;  /* microseconds: when the lock was last lent, or given up by itself */
    long long ended; /* microseconds: when the latest record was written */
} Pen;

static int
Pen_init(Pen *self, PyObject *args, PyObject *keywords)
{
    int fd, pid;
    long long look_every;
    PyObject *accept;
    if (self->accept != NULL || keywords != NULL) {
        PyErr_SetString(PyExc_TypeError, "a Pen is made once, of positional arguments");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "iiLO", &fd, &pid, &look_every, &accept)) {
        return -1;
    }
    if (look_every < 1) {
        PyErr_SetString(PyExc_ValueError, "look_every counts records, so it is 1 or more");
        return -1;
    }
    self->fd = fd;
    self->pid = pid;
    self->look_every = look_every;
    self->accept = Py_NewRef(accept);
    return 0;
}

static void
Pen_dealloc(Pen *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    Py_XDECREF(self->accept);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *
Pen_take(Pen *self, PyObject *Py_UNUSED(nothing))
{
    return PyLong_FromLongLong(++self->number);
}

static long long
microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000ll + now.tv_nsec / 1000;
}

/* Lets another thread have the interpreter's lock, if one waits for it. Where the lock is given up and taken at once, the
   one that waits has not woken up before it is gone. The shortest nap there is takes Linux some 50 microseconds. */
static void
lend(void)
{
    const struct timespec nap = {0, 1};
    Py_BEGIN_ALLOW_THREADS
    nanosleep(&nap, NULL);
    Py_END_ALLOW_THREADS
}

enum { NOT_TRIED = 0, TORN = -1 };

static PyObject *
Pen_write(Pen *self, PyObject *const *fields, Py_ssize_t count)
{
    char record[ROOM];
    const char *end = record + ROOM - CLOSE;
    long long number = self->number + 1;
    if (self->accept == NULL || number % self->look_every == 0 || here != self->pid) {
        return PyLong_FromLong(NOT_TRIED);
    }
    char *at = record + HEAD;
    *at++ = '[';
    at = put_integer(at, number);
    for (Py_ssize_t field = 0; field < count; field++) {
        if (at < end) {
            *at++ = ',';
            at = put_field(at, end, fields[field]);
        }
        else {
            at = NULL;
        }
        if (at == NULL) {
            PyErr_Clear();
            return PyLong_FromLong(NOT_TRIED);
        }
    }
    /* Until here no other thread ran, so the number is still free. */
    self->number = number;
    *at++ = ']';
    uint32_t sum = crc32_of(record + HEAD, (size_t)(at - record - HEAD));
    *at++ = '\n';
    record[0] = '\n';
    for (int digit = 1; digit < HEAD; digit++, sum <<= 4) {
        record[digit] = "0123456789abcdef"[sum >> 28];
    }
    Py_ssize_t length = at - record, written;
    /* It takes a microsecond as a rule. To give the lock up for that costs a busy app more: whoever takes it, the
       importing thread say, keeps it for five milliseconds. */
    if (self->wary > 0) {
        self->wary--;
        Py_BEGIN_ALLOW_THREADS
        written = write(self->fd, record, (size_t)length);
        Py_END_ALLOW_THREADS
    }
    else {
        long long began = microseconds();
        written = write(self->fd, record, (size_t)length);
        long long ended = microseconds();
        self->wary = ended - began > SLOW ? WARY : 0;
        if (began - self->ended > PAUSE) {
            self->lent = ended;
        }
        if (self->lending && ended - self->lent >= LEND) {
            lend();
            self->lent = ended = microseconds();
        }
        self->ended = ended;
    }
    /* Without its last newline it is whole: whatever comes next begins with one. */
    if (written < length - 1) {
        return PyLong_FromLong(written > 0 ? TORN : NOT_TRIED);
    }
    PyObject *counted = PyObject_CallNoArgs(self->accept);
    if (counted == NULL) {
        return NULL;
    }
    Py_DECREF(counted);
    return PyLong_FromLongLong(number);
}

PyDoc_STRVAR(
    pen_doc,
    "Pen(fd, pid, look_every, accept)\n--\n\n"
    "Appends records to one journal file, for the process that opened it. Any thread may call it.\n\n"
    "Args:\n"
    "    fd: of the file; a subclass keeps it open as long as it lives itself.\n"
    "    pid: of the process; in any other one nothing is written.\n"
    "    look_every: `write` leaves one record in so many to its caller, who looks how full the disk is.\n"
    "    accept: called after each record that was written; it must not raise."
);
PyDoc_STRVAR(take_doc, "take()\n--\n\nGive the next record's number.");
PyDoc_STRVAR(
    write_doc,
    "write(*fields)\n--\n\n"
    "Write a record of these fields after its number; gives the number, or 0 or -1 where nothing was accepted.\n\n"
    "Strings are written as they are, integers in decimal, None as null. 0 is no error: no byte was written, and the\n"
    "caller takes the long way, which looks at the quota, begins a file, reports and rejects. -1: a part of the record\n"
    "was written, so the file has to be left and the event rejected."
);

static PyMethodDef pen_methods[] = {
    {"take", (PyCFunction)Pen_take, METH_NOARGS, take_doc},
    {"write", (PyCFunction)(void (*)(void))Pen_write, METH_FASTCALL, write_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef pen_members[] = {
    {"fd", T_INT, offsetof(Pen, fd), READONLY, PyDoc_STR("Descriptor of the file.")},
    {"pid", T_INT, offsetof(Pen, pid), READONLY, PyDoc_STR("The process that may write.")},
    {"lending", T_BOOL, offsetof(Pen, lending), 0,
     PyDoc_STR("Whether who writes lets other threads have the interpreter's lock for a moment, now and then.")},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot pen_slots[] = {
    {Py_tp_doc, (void *)pen_doc},
    {Py_tp_init, Pen_init},
    {Py_tp_dealloc, Pen_dealloc},
    {Py_tp_methods, pen_methods},
    {Py_tp_members, pen_members},
    {0, NULL},
};

static PyType_Spec pen_spec = {
    .name = "usagekit._speedups.Pen",
    .basicsize = sizeof(Pen),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = pen_slots,
};

static int
fill(PyObject *module)
{
    make_sums();
    here = getpid();
    if (pthread_atfork(NULL, NULL, forked)) {
        PyErr_SetString(PyExc_ImportError, "no handler for forks could be registered");
        return -1;
    }
    PyObject *type = PyType_FromSpec(&pen_spec);
    int failed = type == NULL || PyModule_AddObjectRef(module, "Pen", type) < 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, fill}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "usagekit._speedups",
    .m_doc = "What every request and model call ends with: a record in the journal.",
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&definition);
}
