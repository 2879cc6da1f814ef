/* JSON on one line, written with one write(2): readers see whole lines only. No malloc, no stdio, so that it
 * disturbs nothing that a test looks at. */
#ifndef TEST_JSON_H
#define TEST_JSON_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct json {
  char *at;
  size_t length, capacity;
  int comma;
} json;

/* Memory from mmap: a forked worker must not depend on the host's malloc here. */
static inline void json_raw(json *j, const char *bytes, size_t length) {
  if (j->length + length + 1 > j->capacity) {
    size_t capacity = (j->length + length) * 2 + 65536;
    char *at = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) abort();
    if (j->at) {
      memcpy(at, j->at, j->length);
      munmap(j->at, j->capacity);
    }
    j->at = at;
    j->capacity = capacity;
  }
  memcpy(j->at + j->length, bytes, length);
  j->length += length;
  j->at[j->length] = 0;
}

static inline void json_put(json *j, const char *text) { json_raw(j, text, strlen(text)); }

static inline int json_utf8(const unsigned char *b, size_t n) {
  size_t i = 0;
  while (i < n) {
    size_t more = 9;
    if (b[i] < 0x80) more = 0;
    if (b[i] >= 0xC2 && b[i] < 0xE0) more = 1;
    if ((b[i] & 0xF0) == 0xE0) more = 2;
    if (b[i] >= 0xF0 && b[i] < 0xF5) more = 3;
    if (more == 9 || i + more >= n) return 0;
    if (b[i] == 0xE0 && b[i + 1] < 0xA0) return 0;
    if (b[i] == 0xED && b[i + 1] > 0x9F) return 0;
    if (b[i] == 0xF0 && b[i + 1] < 0x90) return 0;
    if (b[i] == 0xF4 && b[i + 1] > 0x8F) return 0;
    for (size_t k = 1; k <= more; k++)
      if ((b[i + k] & 0xC0) != 0x80) return 0;
    i += more + 1;
  }
  return 1;
}

/* Text as a string; what is not UTF-8 as {"hex": ".."}. */
static inline void json_bytes(json *j, const void *data, size_t length) {
  const unsigned char *b = data;
  char buffer[8];
  if (!json_utf8(b, length)) {
    json_put(j, "{\"hex\":\"");
    for (size_t i = 0; i < length; i++) {
      snprintf(buffer, sizeof buffer, "%02x", b[i]);
      json_put(j, buffer);
    }
    json_put(j, "\"}");
    return;
  }
  json_put(j, "\"");
  for (size_t i = 0; i < length; i++) {
    if (b[i] < 0x20 || b[i] == '"' || b[i] == '\\' || b[i] == 0x7F) {
      snprintf(buffer, sizeof buffer, "\\u%04x", b[i]);
      json_put(j, buffer);
    } else {
      json_raw(j, (const char *)b + i, 1);
    }
  }
  json_put(j, "\"");
}

static inline void json_comma(json *j) {
  if (j->comma) json_put(j, ",");
  j->comma = 1;
}

static inline void json_key(json *j, const char *key) {
  json_comma(j);
  json_bytes(j, key, strlen(key));
  json_put(j, ":");
}

static inline void json_open(json *j, const char *bracket) {
  json_put(j, bracket);
  j->comma = 0;
}

static inline void json_close(json *j, const char *bracket) {
  json_put(j, bracket);
  j->comma = 1;
}

static inline void json_text(json *j, const char *key, const char *text) {
  json_key(j, key);
  if (text)
    json_bytes(j, text, strlen(text));
  else
    json_put(j, "null");
}

static inline void json_number(json *j, const char *key, long long number) {
  char buffer[32];
  snprintf(buffer, sizeof buffer, "%lld", number);
  json_key(j, key);
  json_put(j, buffer);
}

static inline void json_free(json *j) {
  if (j->at) munmap(j->at, j->capacity);
  memset(j, 0, sizeof *j);
}

static inline void write_all(int fd, const void *data, size_t length) {
  const char *at = data;
  while (length > 0) {
    ssize_t n = write(fd, at, length);
    if (n <= 0) return;
    at += n;
    length -= (size_t)n;
  }
}

#endif
