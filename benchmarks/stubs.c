/* Tells callgrind which Python function works: the frame evaluator (PEP 523) of a process calls each pair of a calling
 * and a called function through a stub of its own, so that callgrind has what each function costs, the C that it calls
 * included. Built and read by benchmarks/attribute.py; for one thread of CPython 3.11. */
#define Py_BUILD_CORE 1
#include <Python.h>
#include <internal/pycore_frame.h>
#include <stdio.h>

typedef PyObject *(*stub)(PyThreadState *, struct _PyInterpreterFrame *, int);
extern PyObject *_PyEval_EvalFrameDefault(PyThreadState *, struct _PyInterpreterFrame *, int);

/* The assembly keeps the call from being a jump, and the stubs from being one. */
#define STUB(n)                                                                                                        \
    __attribute__((noinline)) PyObject *stub_##n(PyThreadState *t, struct _PyInterpreterFrame *f, int throwing) {      \
        PyObject *result = _PyEval_EvalFrameDefault(t, f, throwing);                                                   \
        __asm__ volatile("nop # " #n : "+r"(result));                                                                  \
        return result;                                                                                                 \
    }
#define NAMED(n) stub_##n,
#define SIXTEEN(each, n)                                                                                               \
    each(n##0) each(n##1) each(n##2) each(n##3) each(n##4) each(n##5) each(n##6) each(n##7)                            \
    each(n##8) each(n##9) each(n##a) each(n##b) each(n##c) each(n##d) each(n##e) each(n##f)
#define MANY(each, n)                                                                                                  \
    SIXTEEN(each, n##0) SIXTEEN(each, n##1) SIXTEEN(each, n##2) SIXTEEN(each, n##3)                                    \
    SIXTEEN(each, n##4) SIXTEEN(each, n##5) SIXTEEN(each, n##6) SIXTEEN(each, n##7)                                    \
    SIXTEEN(each, n##8) SIXTEEN(each, n##9) SIXTEEN(each, n##a) SIXTEEN(each, n##b)                                    \
    SIXTEEN(each, n##c) SIXTEEN(each, n##d) SIXTEEN(each, n##e) SIXTEEN(each, n##f)
#define ALL(each)                                                                                                      \
    MANY(each, x0) MANY(each, x1) MANY(each, x2) MANY(each, x3) MANY(each, x4) MANY(each, x5) MANY(each, x6)           \
    MANY(each, x7) MANY(each, x8) MANY(each, x9) MANY(each, xa) MANY(each, xb) MANY(each, xc) MANY(each, xd)           \
    MANY(each, xe) MANY(each, xf)

ALL(STUB)
static const stub stubs[] = {ALL(NAMED)};

#define STUBS (sizeof stubs / sizeof *stubs)
#define PLACES 65536
static struct {
    PyCodeObject *caller, *callee;
    unsigned number;
} known[PLACES];
static unsigned found;
static FILE *map;
static PyCodeObject *running;
static PyThreadState *watched;

static void write_name(PyCodeObject *code) {
    if (code)
        fprintf(map, "\t%s\t%s", PyUnicode_AsUTF8(code->co_filename), PyUnicode_AsUTF8(code->co_qualname));
    else
        fprintf(map, "\t\t");
}

/* The number of a pair's stub; the last one is that of all pairs beyond. */
__attribute__((noinline)) static unsigned number_of(PyCodeObject *caller, PyCodeObject *callee) {
    unsigned long at = ((unsigned long)caller * 0x9E3779B97F4A7C15ul ^ (unsigned long)callee * 0xC2B2AE3D27D4EB4Ful) >> 40;
    for (at %= PLACES; known[at].callee; at = (at + 1) % PLACES)
        if (known[at].callee == callee && known[at].caller == caller)
            return known[at].number;
    if (found == STUBS - 1)
        return found;
    Py_INCREF(callee);
    Py_XINCREF(caller);
    known[at].caller = caller, known[at].callee = callee, known[at].number = found;
    fprintf(map, "%x", found);
    write_name(caller);
    write_name(callee);
    fputc('\n', map);
    fflush(map);
    return found++;
}

__attribute__((noinline)) static PyObject *by_stub(PyThreadState *t, struct _PyInterpreterFrame *f, int throwing) {
    if (t != watched)
        return _PyEval_EvalFrameDefault(t, f, throwing);
    PyCodeObject *caller = running;
    unsigned number = number_of(caller, f->f_code);
    running = f->f_code;
    PyObject *result = stubs[number](t, f, throwing);
    running = caller;
    return result;
}

static PyObject *start(PyObject *self, PyObject *path) {
    if (!(map = fopen(PyUnicode_AsUTF8(path), "w")))
        return PyErr_SetFromErrno(PyExc_OSError);
    watched = PyThreadState_Get();
    _PyInterpreterState_SetEvalFrameFunc(watched->interp, by_stub);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"start", start, METH_O, "Begin, and write the pair of each stub to a file."}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "stubs", 0, -1, methods};
PyMODINIT_FUNC PyInit_stubs(void) { return PyModule_Create(&module); }
