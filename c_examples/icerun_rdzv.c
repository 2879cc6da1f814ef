/* icerun: the rendezvous options. Of one host there is nobody to meet: what is left of them is
 * where the workers meet each other, MASTER_ADDR, MASTER_PORT and the run id.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include "icerun.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* ---- nodes ---- */

/* Returns the greatest number of them. */
static int64_t set_nodes(const struct options *options, ice_spec *spec) {
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
  accept_value(options, OPT_NNODES, ice_spec_set_nodes(spec, low, high));
  return high;
}

static void set_node_rank(const struct options *options, ice_spec *spec) {
  const char *rank = option_text(options, OPT_NODE_RANK);
  accept_value(options, OPT_NODE_RANK, ice_spec_set(spec, "node_rank", rank));
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

/* `length` bytes without the blanks at both ends; 0 if they are none or too many. */
static int trimmed(const char *text, size_t length, char out[256]) {
  while (length > 0 && isspace((unsigned char)*text)) text++, length--;
  while (length > 0 && isspace((unsigned char)text[length - 1])) length--;
  if (length == 0 || length >= 256) return 0;
  snprintf(out, 256, "%.*s", (int)length, text);
  return 1;
}

/* Without the quotes that a shell has not read, as those in a file of another launcher. */
static void unquoted(const char **text, size_t *length) {
  while (*length > 0 && isspace((unsigned char)**text)) *text += 1, *length -= 1;
  while (*length > 0 && isspace((unsigned char)(*text)[*length - 1])) *length -= 1;
  if (*length < 2 || !strchr("'\"", **text)) return;
  /* One pair around all of it, not two things in quotes. */
  if (memchr(*text + 1, **text, *length - 1) != *text + *length - 1) return;
  *text += 1, *length -= 2;
}

/* Of torch's handlers and stores: nothing here needs them. */
static int is_without_effect(const char *key) {
  static const char *const keys[] = {"heartbeat_timeout", "cas_backoff_max_seconds", "use_libuv",
                                     "etcd_prefix"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    if (strcmp(key, keys[i]) == 0) return 1;
  }
  return 0;
}

static void set_conf_item(const struct options *options, ice_spec *spec, const char *item,
                          size_t length) {
  char key[256], value[256];
  unquoted(&item, &length);
  const char *equals = memchr(item, '=', length);
  size_t key_length = equals ? (size_t)(equals - item) : length;
  const char *from = equals ? equals + 1 : "";
  size_t value_length = equals ? length - key_length - 1 : 0;
  int fine = trimmed(item, key_length, key);
  if (fine && strcmp(key, "password") != 0) unquoted(&from, &value_length);
  if (!fine || !trimmed(from, value_length, value)) {
    bad_value(options, OPT_RDZV_CONF, "must be KEY=VALUE,KEY=VALUE,...");
  }
  int64_t rank;
  if (strcmp(key, "rank") == 0 && read_integer(value, &rank)) {
    accept_value(options, OPT_RDZV_CONF, ice_spec_set_node_rank(spec, rank));
  } else {
    accept_value(options, OPT_RDZV_CONF, ice_spec_set_rendezvous_option(spec, key, value));
    if (is_without_effect(key)) notice(options, "--rdzv-conf: %s has no effect here", key);
  }
}

static void set_conf(const struct options *options, ice_spec *spec) {
  if (!option_filled(options, OPT_RDZV_CONF)) return;
  const char *item = option_text(options, OPT_RDZV_CONF);
  size_t left = strlen(item);
  unquoted(&item, &left);
  while (left > 0) {
    const char *comma = memchr(item, ',', left);
    size_t length = comma ? (size_t)(comma - item) : left;
    set_conf_item(options, spec, item, length);
    if (!comma) return;
    item += length + 1, left -= length + 1;
    if (left == 0) set_conf_item(options, spec, item, 0);
  }
}

/* ---- the scheduler ---- */

const char *scheduler(const struct options *options) {
  if (option_on(options, OPT_STANDALONE)) return NULL;
  const char *name = option_text(options, OPT_SCHEDULER);
  if (strcmp(name, "auto") == 0) name = ice_scheduler_name();
  return *name && strcmp(name, "none") != 0 ? name : NULL;
}

/* ---- the spec ---- */

/* An id that is made up, of one host that nobody has named; it is known to no other. The file may say another one. */
void set_default_run_id(const struct options *options, ice_spec *spec) {
  int named = option_filled(options, OPT_RDZV_ENDPOINT) || option_on(options, OPT_MASTER_PORT);
  if (option_filled(options, OPT_CONFIG)) named = 1; /* by the file, maybe */
  if (named && !option_on(options, OPT_STANDALONE)) return; /* `none`, as with torchrun */
  if (scheduler(options)) return;                           /* the job's */
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

/* `nodes`: of how many hosts the job may be. */
static void set_run_id(const struct options *options, ice_spec *spec, int64_t nodes) {
  if (option_filled(options, OPT_RDZV_ID)) {
    const char *id = option_text(options, OPT_RDZV_ID);
    accept_value(options, OPT_RDZV_ID, ice_spec_set_run_id(spec, id));
  } else if (nodes > 1) {
    const char *id = OPTIONS[OPT_RDZV_ID].standard;
    notice(options, "no --rdzv-id: the run id is %s, as of all jobs there without one", id);
    accept_value(options, OPT_RDZV_ID, ice_spec_set_run_id(spec, id));
  }
}

static void set_master(const struct options *options, ice_spec *spec, size_t id,
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
  if (option_filled(options, OPT_MASTER_ADDR)) {
    set_master(options, spec, OPT_MASTER_ADDR, option_text(options, OPT_MASTER_ADDR));
  }
  if (!option_on(options, OPT_MASTER_PORT)) return;
  int64_t port = option_integer(options, OPT_MASTER_PORT);
  if (port < 0 || port > 65535) bad_value(options, OPT_MASTER_PORT, "must be from 0 to 65535");
  accept_value(options, OPT_MASTER_PORT, ice_spec_set_master_port(spec, (int32_t)port));
}

/* Static, of several hosts: they meet where the options say. */
static void set_static_rendezvous(const struct options *options, ice_spec *spec) {
  char endpoint[512];
  if (option_filled(options, OPT_RDZV_ENDPOINT)) {
    snprintf(endpoint, sizeof endpoint, "%s", option_text(options, OPT_RDZV_ENDPOINT));
  } else {
    const char *address = option_text(options, OPT_MASTER_ADDR);
    const char *port = option_on(options, OPT_MASTER_PORT) ? option_text(options, OPT_MASTER_PORT)
                                                           : "29500"; /* torch's */
    const char *format = strchr(address, ':') && *address != '[' ? "[%s]:%s" : "%s:%s";
    snprintf(endpoint, sizeof endpoint, format, address, port);
  }
  set_node_rank(options, spec);
  accept_value(options, OPT_RDZV_ENDPOINT, ice_spec_set_rendezvous(spec, "static", endpoint));
}

static void set_rendezvous(const struct options *options, ice_spec *spec, const char *backend) {
  if (option_on(options, OPT_NODE_RANK)) set_node_rank(options, spec);
  const char *endpoint = option_text(options, OPT_RDZV_ENDPOINT);
  ice_status status = ice_spec_set_rendezvous(spec, backend, endpoint ? endpoint : "");
  accept_value(options, OPT_RDZV_BACKEND, status);
}

/* What was said of other hosts, and is not heard. */
static void note_standalone(const struct options *options) {
  static const enum option_id unheard[] = {OPT_NNODES, OPT_NODE_RANK, OPT_RDZV_BACKEND,
                                           OPT_RDZV_ENDPOINT, OPT_MASTER_ADDR};
  for (size_t i = 0; i < sizeof unheard / sizeof *unheard; i++) {
    const struct setting *setting = &options->settings[unheard[i]];
    if (!setting->value || !*setting->value) continue;
    notice(options, "--%s %s has no effect beside --standalone: the run is of this host alone",
           OPTIONS[unheard[i]].name, setting->value);
  }
}

/* torchrun takes any rank of one host that names no place, and has no use for it. */
static void check_rank_of_one(const struct options *options) {
  const char *text = option_text(options, OPT_NODE_RANK);
  int64_t rank = strcmp(text, "scheduler") == 0 ? 0 : option_integer(options, OPT_NODE_RANK);
  if (rank == 0) return;
  if (option_filled(options, OPT_RDZV_ENDPOINT) || option_on(options, OPT_MASTER_PORT)) {
    bad_value(options, OPT_NODE_RANK, "must be 0, as there is one host (--nnodes)");
  }
  notice(options, "--node-rank %s has no effect here: there is one host (--nnodes)", text);
}

/* What is said here in place of what the file says, or the scheduler. */
static void set_beside_others(const struct options *options, ice_spec *spec) {
  static const enum option_id ids[] = {OPT_NNODES, OPT_RDZV_BACKEND, OPT_RDZV_ENDPOINT, OPT_NODE_RANK,
                                       OPT_MASTER_ADDR, OPT_MASTER_PORT, OPT_LOCAL_ADDR};
  if (option_on(options, OPT_STANDALONE)) {
    accept_value(options, OPT_STANDALONE, ice_spec_set(spec, "rendezvous_backend", ""));
    accept_value(options, OPT_STANDALONE, ice_spec_set_nodes(spec, 1, 1));
    return;
  }
  for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
    if (!option_filled(options, ids[i])) continue;
    ice_status status = ice_spec_set(spec, OPTIONS[ids[i]].library->name, option_text(options, ids[i]));
    accept_value(options, ids[i], status);
  }
}

void rendezvous_to_spec(const struct options *options, ice_spec *spec) {
  int standalone = option_on(options, OPT_STANDALONE);
  int has_file = option_filled(options, OPT_CONFIG);
  const char *backend = standalone ? "c10d" : option_text(options, OPT_RDZV_BACKEND);
  int by_others = has_file || scheduler(options);
  int64_t nodes = standalone || by_others ? 1 : set_nodes(options, spec);
  set_conf(options, spec);
  if (standalone) note_standalone(options);
  set_run_id(options, spec, nodes);
  if (by_others) {
    set_beside_others(options, spec);
    return;
  }
  if (standalone) accept_value(options, OPT_STANDALONE, ice_spec_set_nodes(spec, 1, 1));
  if (option_filled(options, OPT_LOCAL_ADDR)) {
    const char *address = option_text(options, OPT_LOCAL_ADDR);
    char bare[256];
    set_master(options, spec, OPT_LOCAL_ADDR, address);
    accept_value(options, OPT_LOCAL_ADDR,
                 ice_spec_set_local_addr(spec, without_brackets(address, bare)));
  }
  if (strcmp(backend, "static") == 0) {
    if (nodes > 1) {
      set_static_rendezvous(options, spec);
    } else {
      check_rank_of_one(options);
      set_static_master(options, spec);
    }
    return;
  }
  static const enum option_id of_static[] = {OPT_MASTER_ADDR, OPT_MASTER_PORT};
  for (size_t i = 0; i < sizeof of_static / sizeof *of_static; i++) {
    if (!options->settings[of_static[i]].on_command_line) continue;
    notice(options, "--%s has no effect here: only --rdzv-backend static uses it",
           OPTIONS[of_static[i]].name);
  }
  /* One host that says no place meets nobody. */
  if (standalone || (nodes == 1 && !option_filled(options, OPT_RDZV_ENDPOINT) &&
                     strcmp(backend, "c10d") == 0)) {
    return;
  }
  set_rendezvous(options, spec, backend);
}
