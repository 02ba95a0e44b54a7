/* A graphics card of known power behind NVML's interface; environment variables say what it does.
 *
 * CARD_IDLE, CARD_BUSY   watts at rest, and at most how many more at work
 * CARD_SHAPE             power at work: "constant", "square" (half of each period), "ramp" (rises in each period)
 * CARD_PERIOD            seconds of a period
 * CARD_UPDATE            seconds between two updates of the energy counter
 * CARD_MEAN              seconds over which a power reading is the mean; 0: it is of this moment
 * CARD_INIT, CARD_ENERGY, CARD_POWER   error codes that initialisation and the two readings return
 * CARD_READS, CARD_WORKS, CARD_LOST   after so many readings or inferences, each reading returns this error code
 *
 * The test calls card_work(1) and card_work(0) where an inference begins and ends, and card_worked() for the
 * joules that work has added to rest so far: the truth.
 */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { NOT_SUPPORTED = 3, NOT_FOUND = 6 };

typedef struct { double update, next, past, shown; } Latch;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static double start, since, worked, period;
static Latch counter, mean;
static int busy;
static long reads, works;

static double number(const char *name, double otherwise) {
    const char *text = getenv(name);
    return text ? atof(text) : otherwise;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static int shape(const char *name) {
    const char *text = getenv("CARD_SHAPE");
    return text && !strcmp(text, name);
}

/* Joules that t seconds of work add. */
static double integral(double t) {
    double periods = floor(t / period), rest = t - periods * period, whole = periods * period / 2;
    double seconds = t;
    if (shape("square")) seconds = whole + fmin(rest, period / 2);
    if (shape("ramp")) seconds = whole + rest * rest / (2 * period);
    return number("CARD_BUSY", 0) * seconds;
}

/* Watts that work adds after t seconds. */
static double rate(double t) {
    double part = t / period - floor(t / period), share = 1;
    if (shape("square")) share = part < 0.5;
    if (shape("ramp")) share = part;
    return number("CARD_BUSY", 0) * share;
}

static double added(double t) { return worked + (busy ? integral(t - since) : 0); }
static double total(double t) { return number("CARD_IDLE", 0) * (t - start) + added(t); }

/* Show what was true at the last update; the state has not changed since the last call. */
static void advance(Latch *latch, double t) {
    if (latch->update <= 0) latch->past = latch->shown, latch->shown = total(t);
    else for (; latch->next <= t; latch->next += latch->update) {
        latch->past = latch->shown;
        latch->shown = total(latch->next);
    }
}

static double step(void) {
    double t = now();
    if (!start) {
        start = since = t;
        period = number("CARD_PERIOD", 1);
        counter.update = number("CARD_UPDATE", 0.02), counter.next = t + counter.update;
        mean.update = number("CARD_MEAN", 0), mean.next = t + mean.update;
    }
    advance(&counter, t);
    advance(&mean, t);
    return t;
}

void card_work(int on) {
    pthread_mutex_lock(&lock);
    double t = step();
    worked = added(t), since = t, busy = on;
    works += !on;
    pthread_mutex_unlock(&lock);
}

double card_worked(void) {
    pthread_mutex_lock(&lock);
    double joules = added(step());
    pthread_mutex_unlock(&lock);
    return joules;
}

static int failure(const char *name) {
    if (reads++ >= number("CARD_READS", 1e18) || works >= number("CARD_WORKS", 1e18)) return (int)number("CARD_LOST", 15);
    return (int)number(name, 0);
}

int nvmlDeviceGetTotalEnergyConsumption(void *card, unsigned long long *millijoules) {
    pthread_mutex_lock(&lock);
    step();
    *millijoules = (unsigned long long)(1000 * (12345 + counter.shown));
    int error = failure("CARD_ENERGY");
    pthread_mutex_unlock(&lock);
    return error;
}

int nvmlDeviceGetPowerUsage(void *card, unsigned *milliwatts) {
    pthread_mutex_lock(&lock);
    double t = step();
    double watts = number("CARD_IDLE", 0) + (busy ? rate(t - since) : 0);
    if (mean.update > 0) watts = (mean.shown - mean.past) / mean.update;
    *milliwatts = (unsigned)(1000 * watts + 0.5);
    int error = failure("CARD_POWER");
    pthread_mutex_unlock(&lock);
    return error;
}

int nvmlInitWithFlags(unsigned flags) { return (int)number("CARD_INIT", 0); }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int error) { return "an error of the stub"; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    strncpy(version, "550.00.1", length);
    return 0;
}

int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **card) {
    *card = &counter;
    return index < 2 ? 0 : NOT_FOUND;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **card) {
    *card = &counter;
    return strcmp(uuid, "GPU-known") ? NOT_FOUND : 0;
}

int nvmlDeviceGetName(void *card, char *name, unsigned length) {
    strncpy(name, "NVIDIA Stub", length);
    return 0;
}

int nvmlDeviceGetUUID(void *card, char *uuid, unsigned length) {
    strncpy(uuid, "GPU-known", length);
    return 0;
}
