/* A check that reports and goes on. */
#ifndef ISOLOGIT_TESTS_CAPI_CHECK_H_
#define ISOLOGIT_TESTS_CAPI_CHECK_H_

#include <stdio.h>

static int failures = 0;

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                     \
    }                                                                 \
  } while (0)

#endif
