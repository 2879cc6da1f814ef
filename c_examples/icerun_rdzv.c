/* icerun: the rendezvous options, as far as one host needs them. There is nobody to meet, so what
 * is left of them is where the workers meet each other: MASTER_ADDR, MASTER_PORT and the run id.
 * All are checked, so that a mistake shows here and not on the day when there are several hosts.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include "icerun.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

/* ---- nodes ---- */

static void check_nodes(const struct options *options) {
  const char *text = option_text(options, OPT_NNODES);
  char first[32];
  size_t length = strcspn(text, ":");
  int64_t low, high;
  snprintf(first, sizeof first, "%.*s", (int)length, text);
  int fine = length < sizeof first && read_integer(first, &low);
  if (fine && text[length]) {
    fine = read_integer(text + length + 1, &high);
  } else if (fine) {
    high = low;
  }
  if (!fine || low < 1 || high < low) {
    bad_value(options, OPT_NNODES, "must be N or MIN:MAX with 1 <= MIN <= MAX");
  }
  if (high > 1) bad_value(options, OPT_NNODES, "several hosts are not supported yet, only 1 is");
}

static void check_node_rank(const struct options *options) {
  if (option_integer(options, OPT_NODE_RANK) == 0) return;
  bad_value(options, OPT_NODE_RANK, "must be 0, as there is one host");
}

/* ---- endpoint ---- */

struct endpoint {
  char host[256];
  int64_t port; /* -1 if there is none */
};

/* `[::1]` as `::1`: the brackets only part an IPv6 address from a port. */
static const char *without_brackets(const char *host, char bare[256]) {
  size_t length = strlen(host);
  if (length > 256 || length < 2 || host[0] != '[' || host[length - 1] != ']') return host;
  snprintf(bare, 256, "%.*s", (int)length - 2, host + 1);
  return bare;
}

/* Takes `host`, `host:port`, `[v6]`, `[v6]:port`, or nothing but blanks for localhost. */
static int read_endpoint(const char *text, struct endpoint *out) {
  char whole[300], bare[256];
  text += strspn(text, " \t");
  size_t length = strlen(text);
  while (length > 0 && isspace((unsigned char)text[length - 1])) length--;
  if (length >= sizeof whole) return 0;
  snprintf(whole, sizeof whole, "%.*s", (int)length, length > 0 ? text : "");
  out->port = -1;
  char *colon = length > 0 && whole[length - 1] == ']' ? NULL : strrchr(whole, ':');
  if (colon) {
    *colon = '\0';
    size_t digits = strspn(colon + 1, "0123456789");
    if (digits < 1 || digits > 5 || colon[1 + digits]) return 0;
    if (!read_integer(colon + 1, &out->port) || out->port > 65535) return 0;
  }
  const char *host = length > 0 ? without_brackets(whole, bare) : "localhost";
  if (!*host || strlen(host) >= sizeof out->host) return 0;
  for (const char *c = host; *c; c++) {
    if (!isalnum((unsigned char)*c) && !strchr("_.:-", *c)) return 0;
  }
  strcpy(out->host, host);
  return 1;
}

/* ---- rdzv-conf ---- */

enum kind { COUNT, SECONDS, YES_OR_NO, STORE_TYPE, ANY_NUMBER };

static const struct {
  const char *key;
  enum kind kind;
} CONF[] = {
  {"timeout", COUNT},           {"join_timeout", COUNT},
  {"last_call_timeout", COUNT}, {"close_timeout", COUNT},
  {"heartbeat_timeout", COUNT}, {"keep_alive_interval", COUNT},
  {"read_timeout", COUNT},      {"keep_alive_max_attempt", COUNT},
  {"is_host", YES_OR_NO},       {"store_type", STORE_TYPE},
  {"rank", ANY_NUMBER},         {"cas_backoff_max_seconds", SECONDS},
};
#define CONF_COUNT (sizeof CONF / sizeof *CONF)

static int is_one_of(const char *value, const char *const *words) {
  for (; *words; words++) {
    if (strcasecmp(value, *words) == 0) return 1;
  }
  return 0;
}

/* What is wrong with the value, or NULL. */
static const char *conf_fault(enum kind kind, const char *value) {
  static const char *const booleans[] = {"1", "true",  "t", "yes", "y",
                                         "0", "false", "f", "no",  "n", NULL};
  static const char *const stores[] = {"tcp", "file", NULL};
  int64_t integer;
  double number;
  switch (kind) {
    case COUNT:
      if (read_integer(value, &integer) && integer > 0) return NULL;
      return "must be a whole number above 0";
    case ANY_NUMBER:
      return read_integer(value, &integer) ? NULL : "must be a whole number";
    case SECONDS:
      return read_number(value, &number) && number >= 0 ? NULL : "must be a number, 0 or more";
    case YES_OR_NO:
      return is_one_of(value, booleans) ? NULL : "must be true or false";
    case STORE_TYPE:
      return is_one_of(value, stores) ? NULL : "must be tcp or file";
  }
  return NULL;
}

/* `length` bytes without the blanks at both ends; 0 if they are none or too many. */
static int trimmed(const char *text, size_t length, char out[256]) {
  while (length > 0 && isspace((unsigned char)*text)) text++, length--;
  while (length > 0 && isspace((unsigned char)text[length - 1])) length--;
  if (length == 0 || length >= 256) return 0;
  snprintf(out, 256, "%.*s", (int)length, text);
  return 1;
}

static void check_conf_item(const struct options *options, const char *item, size_t length) {
  char key[256], value[256], message[1024];
  const char *equals = memchr(item, '=', length);
  size_t key_length = equals ? (size_t)(equals - item) : length;
  if (!trimmed(item, key_length, key) || !equals ||
      !trimmed(equals + 1, length - key_length - 1, value)) {
    bad_value(options, OPT_RDZV_CONF, "must be KEY=VALUE,KEY=VALUE,...");
  }
  for (size_t i = 0; i < CONF_COUNT; i++) {
    if (strcmp(key, CONF[i].key) != 0) continue;
    const char *fault = conf_fault(CONF[i].kind, value);
    if (!fault) return;
    snprintf(message, sizeof message, "%s %s", key, fault);
    bad_value(options, OPT_RDZV_CONF, message);
  }
  int at = snprintf(message, sizeof message, "there is no %s; the keys are", key);
  for (size_t i = 0; i < CONF_COUNT; i++) {
    at += snprintf(message + at, sizeof message - (size_t)at, "%s %s", i > 0 ? "," : "",
                   CONF[i].key);
  }
  bad_value(options, OPT_RDZV_CONF, message);
}

static void check_conf(const struct options *options) {
  if (!option_filled(options, OPT_RDZV_CONF)) return;
  const char *item = option_text(options, OPT_RDZV_CONF);
  for (;;) {
    size_t length = strcspn(item, ",");
    check_conf_item(options, item, length);
    if (!item[length]) return;
    item += length + 1;
  }
}

/* ---- the spec ---- */

static void set_run_id(const struct options *options, ice_spec *spec) {
  if (option_filled(options, OPT_RDZV_ID)) {
    const char *id = option_text(options, OPT_RDZV_ID);
    accept_value(options, OPT_RDZV_ID, ice_spec_set_run_id(spec, id));
    return;
  }
  int named = option_filled(options, OPT_RDZV_ENDPOINT) || option_on(options, OPT_MASTER_PORT);
  if (named && !option_on(options, OPT_STANDALONE)) return; /* `none`, as with torchrun */
  unsigned char bytes[16];
  if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) return;
  /* A UUID of version 4. */
  bytes[6] = (unsigned char)((bytes[6] & 0x0f) | 0x40);
  bytes[8] = (unsigned char)((bytes[8] & 0x3f) | 0x80);
  char id[37];
  int at = 0;
  for (int i = 0; i < 16; i++) {
    const char *dash = i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "";
    at += snprintf(id + at, sizeof id - (size_t)at, "%s%02x", dash, bytes[i]);
  }
  accept_value(options, OPT_RDZV_ID, ice_spec_set_run_id(spec, id));
}

static void set_master(const struct options *options, ice_spec *spec, enum option_id id,
                       const char *address) {
  char bare[256];
  accept_value(options, id, ice_spec_set_master_addr(spec, without_brackets(address, bare)));
}

/* Static: worker 0 listens where the options say. */
static void set_static_master(const struct options *options, ice_spec *spec) {
  struct endpoint endpoint;
  if (option_filled(options, OPT_RDZV_ENDPOINT)) {
    const char *text = option_text(options, OPT_RDZV_ENDPOINT);
    if (!read_endpoint(text, &endpoint)) {
      bad_value(options, OPT_RDZV_ENDPOINT, "must be HOST:PORT with a port up to 65535");
    }
    if (endpoint.port < 0) {
      bad_value(options, OPT_RDZV_ENDPOINT, "needs a port (HOST:PORT) with --rdzv-backend static");
    }
    set_master(options, spec, OPT_RDZV_ENDPOINT, endpoint.host);
    accept_value(options, OPT_RDZV_ENDPOINT,
                 ice_spec_set_master_port(spec, (int32_t)endpoint.port));
    return;
  }
  int named = option_filled(options, OPT_MASTER_ADDR);
  if (named || !option_filled(options, OPT_LOCAL_ADDR)) {
    set_master(options, spec, OPT_MASTER_ADDR, option_text(options, OPT_MASTER_ADDR));
  }
  if (!option_on(options, OPT_MASTER_PORT)) return;
  int64_t port = option_integer(options, OPT_MASTER_PORT);
  if (port < 0 || port > 65535) bad_value(options, OPT_MASTER_PORT, "must be from 0 to 65535");
  accept_value(options, OPT_MASTER_PORT, ice_spec_set_master_port(spec, (int32_t)port));
}

void rendezvous_to_spec(const struct options *options, ice_spec *spec) {
  struct endpoint endpoint;
  int standalone = option_on(options, OPT_STANDALONE);
  const char *backend = standalone ? "c10d" : option_text(options, OPT_RDZV_BACKEND);
  check_nodes(options);
  check_conf(options);
  set_run_id(options, spec);
  if (option_filled(options, OPT_LOCAL_ADDR)) {
    set_master(options, spec, OPT_LOCAL_ADDR, option_text(options, OPT_LOCAL_ADDR));
  }
  if (strcmp(backend, "static") == 0) {
    check_node_rank(options);
    set_static_master(options, spec);
    return;
  }
  if (strncmp(backend, "etcd", 4) == 0) {
    bad_value(options, OPT_RDZV_BACKEND, "etcd is not supported yet, use static or c10d");
  }
  if (strcmp(backend, "c10d") != 0) {
    bad_value(options, OPT_RDZV_BACKEND, "must be static or c10d");
  }
  if (options->settings[OPT_MASTER_PORT].on_command_line) {
    notice(options, "--master-port has no effect here: only --rdzv-backend static uses it");
  }
  if (standalone) return;
  check_node_rank(options);
  if (option_filled(options, OPT_RDZV_ENDPOINT) &&
      !read_endpoint(option_text(options, OPT_RDZV_ENDPOINT), &endpoint)) {
    bad_value(options, OPT_RDZV_ENDPOINT, "must be HOST or HOST:PORT with a port up to 65535");
  }
}
