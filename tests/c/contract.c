/* What the header promises of single calls, checked line by line:
 *   contract null | record FILE | errors | states | getters | functions | store | strings
 * Exits 0, or 1 with the lines that are not so. */
#include <ice.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>

#include "verbs.h"

static int WRONG;

#define CHECK(condition)                                                                       \
  do {                                                                                         \
    if (!(condition)) {                                                                        \
      WRONG++;                                                                                 \
      fprintf(stderr, "%s:%d: not so: %s\n  last error: %s\n", __FILE__, __LINE__, #condition, \
              ice_last_error_message());                                                       \
    }                                                                                          \
  } while (0)
#define ARGUMENT(call) CHECK((call) == ICE_ERROR_ARGUMENT)

static int32_t do_nothing(ice_worker *worker, void *user_data) {
  (void)worker;
  (void)user_data;
  return 0;
}

static void take_log(void *user_data, int32_t level, const char *text) {
  (void)user_data;
  (void)level;
  (void)text;
}

static void take_event(void *user_data, const char *json) {
  (void)user_data;
  (void)json;
}

static void take_output(void *user_data, int32_t rank, int32_t stream, const uint8_t *data, size_t length) {
  (void)user_data;
  (void)rank;
  (void)stream;
  (void)data;
  (void)length;
}

static void null_spec(void) {
  const char *list[] = {"a", NULL};
  ARGUMENT(ice_spec_new(NULL));
  ARGUMENT(ice_spec_set_role(NULL, "a"));
  ARGUMENT(ice_spec_set_local_world_size(NULL, 1));
  ARGUMENT(ice_spec_set_program(NULL, "a"));
  ARGUMENT(ice_spec_set_program_bytes(NULL, "a", 1));
  ARGUMENT(ice_spec_add_arg(NULL, "a"));
  ARGUMENT(ice_spec_add_arg_bytes(NULL, "a", 1));
  ARGUMENT(ice_spec_add_args(NULL, list, 1));
  ARGUMENT(ice_spec_set_callback(NULL, do_nothing, NULL));
  ARGUMENT(ice_spec_set_function(NULL, NULL, "a"));
  ARGUMENT(ice_spec_set_start_method(NULL, ICE_START_SPAWN));
  ARGUMENT(ice_spec_set_argument(NULL, "a", 1));
  ARGUMENT(ice_spec_set_warm_up(NULL, "a"));
  ARGUMENT(ice_spec_set_runner(NULL, "a"));
  ARGUMENT(ice_spec_set_crash_records(NULL, 1));
  ARGUMENT(ice_spec_set_env(NULL, "a", "b"));
  ARGUMENT(ice_spec_set_env_bytes(NULL, "a", 1, "b", 1));
  ARGUMENT(ice_spec_unset_env(NULL, "a"));
  ARGUMENT(ice_spec_set_rank_env(NULL, 0, "a", "b"));
  ARGUMENT(ice_spec_unset_rank_env(NULL, 0, "a"));
  ARGUMENT(ice_spec_set_clean_env(NULL, 1));
  ARGUMENT(ice_spec_set_scrub_launcher(NULL, 1));
  ARGUMENT(ice_spec_set_working_dir(NULL, "/"));
  ARGUMENT(ice_spec_set_stdin(NULL, 0));
  ARGUMENT(ice_spec_set_max_restarts(NULL, 0));
  ARGUMENT(ice_spec_set_restart_backoff(NULL, 0, 0));
  ARGUMENT(ice_spec_set_min_uptime(NULL, 0));
  ARGUMENT(ice_spec_add_no_restart_exit_code(NULL, 1));
  ARGUMENT(ice_spec_set_monitor_interval(NULL, 1));
  ARGUMENT(ice_spec_set_shutdown_timeout(NULL, 1));
  ARGUMENT(ice_spec_set_stop_signal(NULL, 15));
  ARGUMENT(ice_spec_set_pre_stop_signal(NULL, 15, 1));
  ARGUMENT(ice_spec_set_signals(NULL, ""));
  ARGUMENT(ice_spec_set_pass_signals(NULL, ""));
  ARGUMENT(ice_spec_set_on_signal(NULL, 10, ICE_ON_SIGNAL_PASS));
  ARGUMENT(ice_spec_set_suspend(NULL, 1));
  ARGUMENT(ice_spec_set_kill_group_on_success(NULL, 1));
  ARGUMENT(ice_spec_set_file_timers(NULL, 1));
  ARGUMENT(ice_spec_set_uninterruptible_timeout(NULL, 1));
  ARGUMENT(ice_spec_set_stack_timeout(NULL, 1));
  ARGUMENT(ice_spec_set_straggler_timeout(NULL, 1));
  ARGUMENT(ice_spec_set_stack_command(NULL, list, 1));
  ARGUMENT(ice_spec_set_control(NULL, 1));
  ARGUMENT(ice_spec_set_ask_on_interrupt(NULL, 1));
  ARGUMENT(ice_spec_set_debug_rank(NULL, 0));
  ARGUMENT(ice_spec_set_progress_bar(NULL, 1));
  ARGUMENT(ice_spec_set_heartbeat_timeout(NULL, 1));
  ARGUMENT(ice_spec_set_initial_heartbeat_timeout(NULL, 1));
  ARGUMENT(ice_spec_set_checkpoint_before_stop(NULL, 1));
  ARGUMENT(ice_spec_set_saved_exit_status(NULL, 1));
  ARGUMENT(ice_spec_set_from_scheduler(NULL, "auto"));
  ARGUMENT(ice_spec_set_timer_signal(NULL, 9));
  ARGUMENT(ice_spec_set_section_limit(NULL, "step", 1));
  ARGUMENT(ice_spec_set_section_learning(NULL, 5, 1));
  ARGUMENT(ice_spec_set_max_attempts_without_progress(NULL, 1));
  ARGUMENT(ice_spec_set_master_addr(NULL, "a"));
  ARGUMENT(ice_spec_set_master_port(NULL, 0));
  ARGUMENT(ice_spec_set_run_id(NULL, "a"));
  ARGUMENT(ice_spec_set_log_dir(NULL, "a"));
  ARGUMENT(ice_spec_set_redirects(NULL, "0"));
  ARGUMENT(ice_spec_set_tee(NULL, "0"));
  ARGUMENT(ice_spec_set_merge_stderr(NULL, 1));
  ARGUMENT(ice_spec_set_log_prefix_template(NULL, ""));
  ARGUMENT(ice_spec_set_log_timestamps(NULL, 1));
  ARGUMENT(ice_spec_set_log_through_agent(NULL, 1));
  ARGUMENT(ice_spec_set_local_ranks_filter(NULL, "0"));
  ARGUMENT(ice_spec_set_duplicate_stdout_filters(NULL, ""));
  ARGUMENT(ice_spec_set_duplicate_stderr_filters(NULL, ""));
  ARGUMENT(ice_spec_set_stderr_tail(NULL, 0));
  ARGUMENT(ice_spec_set_log_modes(NULL, 0755, 0644));
  ARGUMENT(ice_spec_set_console(NULL, 1, 2));
  ARGUMENT(ice_spec_set_output_callback(NULL, take_output, NULL));
  ARGUMENT(ice_spec_set_log_callback(NULL, take_log, NULL));
  ARGUMENT(ice_spec_set_log_level(NULL, 1));
  ARGUMENT(ice_spec_set_event_callback(NULL, take_event, NULL));
  ARGUMENT(ice_spec_set_nproc_per_node(NULL, "2"));
  ARGUMENT(ice_spec_set_devices(NULL, "cuda"));
  ARGUMENT(ice_spec_set_device_visibility(NULL, 0));
  ARGUMENT(ice_spec_set_virtual_local_rank(NULL, 1));
  ARGUMENT(ice_spec_set_devices_per_rank(NULL, 1));
  ARGUMENT(ice_spec_set_ranks_per_device(NULL, 1));
  ARGUMENT(ice_spec_set_device_uuids(NULL, 1));
  ARGUMENT(ice_spec_set_probe_timeout(NULL, 1));
  ARGUMENT(ice_spec_set_cpu_binding(NULL, 0));
  ARGUMENT(ice_spec_set_health_check(NULL, 0, 0));
  ARGUMENT(ice_spec_set_event_handler(NULL, "worker", "null"));
  ARGUMENT(ice_spec_set_health_address(NULL, "::1"));
  ARGUMENT(ice_spec_set_health_socket(NULL, "a"));
  ARGUMENT(ice_spec_set_event_file(NULL, "f"));
  ARGUMENT(ice_spec_set_nodes(NULL, 1, 1));
  ARGUMENT(ice_spec_set_rendezvous(NULL, "c10d", ""));
  ARGUMENT(ice_spec_set_rendezvous_option(NULL, "join_timeout", "1"));
  ARGUMENT(ice_spec_set_node_rank(NULL, 0));
  ARGUMENT(ice_spec_set_node_rank_from_scheduler(NULL));
  ARGUMENT(ice_spec_set_local_addr(NULL, "a"));
  ARGUMENT(ice_spec_set_exit_barrier_timeout(NULL, 1));
  ARGUMENT(ice_spec_set(NULL, "role", "a"));
  ARGUMENT(ice_spec_load(NULL, "a"));
}

static int32_t open_place(void *user_data, const char *endpoint, const char *run_id, void **connection,
                          ice_rendezvous_reply *reply) {
  (void)user_data;
  (void)endpoint;
  (void)run_id;
  (void)connection;
  ice_rendezvous_reply_error(reply, "there is no such place");
  return ICE_ERROR_STORE;
}

static int32_t get_nothing(void *connection, const char *key, ice_rendezvous_reply *reply) {
  (void)connection;
  (void)key;
  (void)reply;
  return ICE_OK;
}

static int32_t set_nothing(void *connection, const char *key, const void *token, size_t token_length,
                           const void *value, size_t value_length, int32_t *stored,
                           ice_rendezvous_reply *reply) {
  (void)connection;
  (void)key;
  (void)token;
  (void)token_length;
  (void)value;
  (void)value_length;
  (void)stored;
  (void)reply;
  return ICE_OK;
}

static void close_place(void *connection) { (void)connection; }

static void null_rendezvous(ice_spec *spec) {
  ARGUMENT(ice_spec_set_rendezvous(spec, NULL, ""));
  ARGUMENT(ice_spec_set_rendezvous(spec, "c10d", NULL));
  ARGUMENT(ice_spec_set_rendezvous_option(spec, NULL, "1"));
  ARGUMENT(ice_spec_set_rendezvous_option(spec, "join_timeout", NULL));
  ARGUMENT(ice_spec_set_local_addr(spec, NULL));
  ARGUMENT(ice_spec_set_from_scheduler(spec, NULL));
  ARGUMENT(ice_rendezvous_register(NULL, open_place, get_nothing, set_nothing, NULL, close_place, NULL));
  ARGUMENT(ice_rendezvous_register("p", NULL, get_nothing, set_nothing, NULL, close_place, NULL));
  ARGUMENT(ice_rendezvous_register("p", open_place, NULL, set_nothing, NULL, close_place, NULL));
  ARGUMENT(ice_rendezvous_register("p", open_place, get_nothing, NULL, NULL, close_place, NULL));
  ARGUMENT(ice_rendezvous_register("p", open_place, get_nothing, set_nothing, NULL, NULL, NULL));
  ARGUMENT(ice_rendezvous_reply_found(NULL, "v", 1, "t", 1));
  ARGUMENT(ice_rendezvous_reply_error(NULL, "a"));
  CHECK(ice_rendezvous_register("p", open_place, get_nothing, set_nothing, NULL, close_place, NULL) == ICE_OK);
  CHECK(ice_rendezvous_register("p", open_place, get_nothing, set_nothing, NULL, close_place, NULL) ==
        ICE_ERROR_CONFIG);
  CHECK(ice_result_round(NULL) == 0 && ice_result_job_restarts(NULL) == 0 && ice_result_exit_code(NULL) == 0);
}

static void null_texts(ice_spec *spec) {
  const char *list[] = {"a", NULL};
  ARGUMENT(ice_spec_set_role(spec, NULL));
  ARGUMENT(ice_spec_set(spec, NULL, "a"));
  ARGUMENT(ice_spec_set(spec, "role", NULL));
  ARGUMENT(ice_spec_load(spec, NULL));
  ARGUMENT(ice_spec_set_program(spec, NULL));
  ARGUMENT(ice_spec_set_program_bytes(spec, NULL, 3));
  ARGUMENT(ice_spec_add_arg(spec, NULL));
  ARGUMENT(ice_spec_add_arg_bytes(spec, NULL, 3));
  ARGUMENT(ice_spec_add_args(spec, NULL, 2));
  ARGUMENT(ice_spec_add_args(spec, list, 2)); /* all or none: "a" is not added */
  ARGUMENT(ice_spec_set_stack_command(spec, NULL, 1));
  ARGUMENT(ice_spec_set_stack_command(spec, list, 2));
  CHECK(ice_spec_set_stack_command(spec, NULL, 0) == ICE_OK);
  ARGUMENT(ice_spec_set_callback(spec, NULL, NULL));
  ARGUMENT(ice_spec_set_function(spec, NULL, NULL));
  ARGUMENT(ice_spec_set_function(spec, "a", NULL));
  ARGUMENT(ice_spec_set_argument(spec, NULL, 1));
  ARGUMENT(ice_spec_set_warm_up(spec, NULL));
  ARGUMENT(ice_spec_set_runner(spec, NULL));
  ARGUMENT(ice_spec_set_env(spec, NULL, "b"));
  ARGUMENT(ice_spec_set_env(spec, "a", NULL));
  ARGUMENT(ice_spec_set_env_bytes(spec, NULL, 1, "b", 1));
  ARGUMENT(ice_spec_set_env_bytes(spec, "a", 1, NULL, 1));
  ARGUMENT(ice_spec_unset_env(spec, NULL));
  ARGUMENT(ice_spec_set_rank_env(spec, 0, NULL, "b"));
  ARGUMENT(ice_spec_set_rank_env(spec, 0, "a", NULL));
  ARGUMENT(ice_spec_unset_rank_env(spec, 0, NULL));
  ARGUMENT(ice_spec_set_working_dir(spec, NULL));
  ARGUMENT(ice_spec_set_signals(spec, NULL));
  ARGUMENT(ice_spec_set_pass_signals(spec, NULL));
  ARGUMENT(ice_spec_set_master_addr(spec, NULL));
  ARGUMENT(ice_spec_set_run_id(spec, NULL));
  ARGUMENT(ice_spec_set_log_dir(spec, NULL));
  ARGUMENT(ice_spec_set_redirects(spec, NULL));
  ARGUMENT(ice_spec_set_tee(spec, NULL));
  ARGUMENT(ice_spec_set_log_prefix_template(spec, NULL));
  ARGUMENT(ice_spec_set_local_ranks_filter(spec, NULL));
  ARGUMENT(ice_spec_set_duplicate_stdout_filters(spec, NULL));
  ARGUMENT(ice_spec_set_duplicate_stderr_filters(spec, NULL));
  CHECK(ice_spec_set_output_callback(spec, NULL, NULL) == ICE_OK);
  CHECK(ice_spec_set_log_callback(spec, NULL, NULL) == ICE_OK);
  CHECK(ice_spec_set_event_callback(spec, NULL, NULL) == ICE_OK);
  ARGUMENT(ice_spec_set_nproc_per_node(spec, NULL));
  ARGUMENT(ice_spec_set_devices(spec, NULL));
  ARGUMENT(ice_spec_set_event_file(spec, NULL));
  CHECK(ice_spec_set_event_file(spec, "") == ICE_OK);
  ARGUMENT(ice_spec_set_event_handler(spec, "worker", NULL));
  CHECK(ice_spec_set_event_handler(spec, NULL, "") == ICE_OK);
  ARGUMENT(ice_spec_set_health_address(spec, NULL));
  ARGUMENT(ice_spec_set_health_socket(spec, NULL));
  CHECK(ice_spec_set_health_socket(spec, "") == ICE_OK);
  CHECK(ice_spec_add_args(spec, NULL, 0) == ICE_OK);
}

static void null_store(void) {
  ice_store_server *server = NULL, *other_server = NULL;
  ice_store *store = NULL, *other = (ice_store *)&WRONG;
  ice_store_values *values = (ice_store_values *)&WRONG;
  ice_worker *worker = NULL;
  const char *secret = "a secret of many";
  const char *keys[] = {"a", NULL}, *data[] = {"1", NULL};
  size_t lengths[] = {1, 1};
  int32_t flag = 77;
  int64_t sum = 77;
  char blob[8] = "";
  ARGUMENT(ice_store_server_new("127.0.0.1", 0, 0, NULL));
  CHECK(ice_store_server_new("127.0.0.1", -1, 0, &server) == ICE_ERROR_CONFIG);
  CHECK(ice_store_server_new("127.0.0.1", 65536, 0, &server) == ICE_ERROR_CONFIG);
  CHECK(strstr(ice_last_error_message(), "65536") != NULL);
  CHECK(ice_store_server_new("", 0, 0, &server) == ICE_ERROR_CONFIG);
  CHECK(ice_store_server_new("no such host", 0, 0, &server) == ICE_ERROR_CONFIG);
  CHECK(ice_store_server_port(NULL) == 0);
  CHECK(server == NULL);
  CHECK(ice_store_server_new("127.0.0.1", 0, 0, &server) == ICE_OK);
  int port = ice_store_server_port(server);
  CHECK(port > 0);
  ARGUMENT(ice_store_server_new_with_secret("127.0.0.1", 0, 0, NULL, 16, &other_server));
  ARGUMENT(ice_store_server_new_with_secret("127.0.0.1", 0, 0, secret, 16, NULL));
  CHECK(ice_store_server_new_with_secret("127.0.0.1", -1, 0, secret, 16, &other_server) == ICE_ERROR_CONFIG);
  CHECK(ice_store_server_new_with_secret("127.0.0.1", 0, 0, secret, 15, &other_server) == ICE_ERROR_CONFIG);
  CHECK(ice_store_server_new_with_secret("127.0.0.1", 0, 0, NULL, 0, &other_server) == ICE_ERROR_CONFIG);
  CHECK(other_server == NULL);
  CHECK(ice_store_server_new_with_secret("127.0.0.1", 0, 0, secret, 16, &other_server) == ICE_OK);
  int locked = ice_store_server_port(other_server);
  ARGUMENT(ice_store_connect_with_secret("127.0.0.1", locked, 1, NULL, 16, &store));
  ARGUMENT(ice_store_connect_with_secret("127.0.0.1", locked, 1, secret, 16, NULL));
  ARGUMENT(ice_store_connect_with_secret("127.0.0.1", locked, 0, secret, 16, &store));
  CHECK(ice_store_connect_with_secret("127.0.0.1", locked, 1, secret, 15, &store) == ICE_ERROR_CONFIG);
  CHECK(ice_store_connect_with_secret("127.0.0.1", locked, -1, "some other secret", 16, &store) == ICE_ERROR_CONFIG);
  CHECK(ice_store_connect("127.0.0.1", locked, -1, &store) == ICE_ERROR_CONFIG);
  CHECK(ice_store_connect_with_secret("127.0.0.1", port, -1, secret, 16, &store) == ICE_ERROR_CONFIG);
  CHECK(store == NULL);
  CHECK(ice_store_connect_with_secret("127.0.0.1", locked, 10, secret, 16, &store) == ICE_OK);
  CHECK(ice_store_set(store, "a", "1", 1) == ICE_OK);
  CHECK(ice_store_interrupt(store) == ICE_OK);
  CHECK(ice_store_set(store, "a", "1", 1) == ICE_ERROR_STORE);
  ice_store_free(store);
  store = NULL;
  CHECK(ice_store_server_refused(other_server) == 2 && ice_store_server_connections(other_server) == 3);
  ice_store_server_free(other_server);
  CHECK(ice_store_server_refused(server) == 1);
  ARGUMENT(ice_store_server_wait_for_workers(NULL, 1, 0));
  ARGUMENT(ice_store_server_wait_for_workers(server, 1, NAN));
  CHECK(ice_store_server_wait_for_workers(server, 0, 0) == ICE_ERROR_CONFIG);
  CHECK(ice_store_server_wait_for_workers(server, 1, 0) == ICE_ERROR_TIMEOUT);
  CHECK(ice_store_server_requests(NULL) == 0 && ice_store_server_connections(NULL) == 0);
  CHECK(ice_store_server_refused(NULL) == 0);
  ARGUMENT(ice_worker_store(NULL, 1, &store));
  CHECK(ice_worker_open(&worker) == ICE_OK);
  ARGUMENT(ice_worker_store(worker, 0, &store));
  ARGUMENT(ice_worker_store(worker, NAN, &store));
  ARGUMENT(ice_worker_store(worker, 1, NULL));
  ice_worker_close(worker);
  ARGUMENT(ice_store_connect(NULL, port, 1, &store));
  ARGUMENT(ice_store_connect("127.0.0.1", port, 1, NULL));
  ARGUMENT(ice_store_connect("127.0.0.1", port, 0, &store));
  ARGUMENT(ice_store_connect("127.0.0.1", port, NAN, &store));
  CHECK(ice_store_connect("127.0.0.1", 0, 1, &store) == ICE_ERROR_CONFIG);
  CHECK(ice_store_connect("127.0.0.1", 65536, 1, &store) == ICE_ERROR_CONFIG);
  CHECK(store == NULL);
  CHECK(ice_store_connect("127.0.0.1", port, 10, &store) == ICE_OK);
  ARGUMENT(ice_store_prefix(NULL, "p", &other));
  ARGUMENT(ice_store_prefix(store, NULL, &other));
  ARGUMENT(ice_store_prefix(store, "p", NULL));
  ARGUMENT(ice_store_set(NULL, "a", "1", 1));
  ARGUMENT(ice_store_set(store, NULL, "1", 1));
  ARGUMENT(ice_store_set(store, "a", NULL, 1));
  ARGUMENT(ice_store_append(NULL, "a", "1", 1));
  ARGUMENT(ice_store_append(store, NULL, "1", 1));
  ARGUMENT(ice_store_append(store, "a", NULL, 1));
  ARGUMENT(ice_store_get(NULL, "a", 0, &values));
  ARGUMENT(ice_store_get(store, NULL, 0, &values));
  ARGUMENT(ice_store_get(store, "a", 0, NULL));
  ARGUMENT(ice_store_get(store, "a", NAN, &values));
  ARGUMENT(ice_store_wait(NULL, keys, 1, 0));
  ARGUMENT(ice_store_wait(store, NULL, 1, 0));
  ARGUMENT(ice_store_wait(store, keys, 2, 0));
  ARGUMENT(ice_store_wait(store, keys, SIZE_MAX, 0));
  ARGUMENT(ice_store_wait(store, keys, 1, NAN));
  ARGUMENT(ice_store_add(NULL, "a", 1, &sum));
  ARGUMENT(ice_store_add(store, NULL, 1, &sum));
  ARGUMENT(ice_store_add(store, "a", 1, NULL));
  ARGUMENT(ice_store_compare_set(NULL, "a", "", 0, "", 0, &values));
  ARGUMENT(ice_store_compare_set(store, NULL, "", 0, "", 0, &values));
  ARGUMENT(ice_store_compare_set(store, "a", NULL, 1, "", 0, &values));
  ARGUMENT(ice_store_compare_set(store, "a", "", 0, NULL, 1, &values));
  ARGUMENT(ice_store_compare_set(store, "a", "", 0, "", 0, NULL));
  ARGUMENT(ice_store_check(NULL, keys, 1, &flag));
  ARGUMENT(ice_store_check(store, NULL, 1, &flag));
  ARGUMENT(ice_store_check(store, keys, 2, &flag));
  ARGUMENT(ice_store_check(store, keys, 1, NULL));
  ARGUMENT(ice_store_delete(NULL, "a", &flag));
  ARGUMENT(ice_store_delete(store, NULL, &flag));
  ARGUMENT(ice_store_delete(store, "a", NULL));
  ARGUMENT(ice_store_multi_get(NULL, keys, 1, 0, &values));
  ARGUMENT(ice_store_multi_get(store, NULL, 1, 0, &values));
  ARGUMENT(ice_store_multi_get(store, keys, 2, 0, &values));
  ARGUMENT(ice_store_multi_get(store, keys, 1, 0, NULL));
  ARGUMENT(ice_store_multi_set(NULL, keys, data, lengths, 1));
  ARGUMENT(ice_store_multi_set(store, NULL, data, lengths, 1));
  ARGUMENT(ice_store_multi_set(store, keys, NULL, lengths, 1));
  ARGUMENT(ice_store_multi_set(store, keys, data, NULL, 1));
  ARGUMENT(ice_store_multi_set(store, data, data, lengths, 2));
  ARGUMENT(ice_store_num_keys(NULL, &sum));
  ARGUMENT(ice_store_num_keys(store, NULL));
  ARGUMENT(ice_store_list_keys(NULL, &values));
  ARGUMENT(ice_store_list_keys(store, NULL));
  ARGUMENT(ice_store_arrive(NULL, &sum));
  ARGUMENT(ice_store_arrive(store, NULL));
  ARGUMENT(ice_store_interrupt(NULL));
  CHECK(ice_store_local_address(NULL) == NULL && ice_store_peer_address(NULL) == NULL);
  ARGUMENT(ice_store_queue_push(NULL, "a", "1", 1));
  ARGUMENT(ice_store_queue_push(store, NULL, "1", 1));
  ARGUMENT(ice_store_queue_push(store, "a", NULL, 1));
  ARGUMENT(ice_store_queue_pop(NULL, "a", 0, &values));
  ARGUMENT(ice_store_queue_pop(store, NULL, 0, &values));
  ARGUMENT(ice_store_queue_pop(store, "a", 0, NULL));
  ARGUMENT(ice_store_queue_len(NULL, "a", &sum));
  ARGUMENT(ice_store_queue_len(store, NULL, &sum));
  ARGUMENT(ice_store_queue_len(store, "a", NULL));
  ARGUMENT(ice_store_barrier(NULL, "a", 1, 0));
  ARGUMENT(ice_store_barrier(store, NULL, 1, 0));
  CHECK(ice_store_barrier(store, "a", 0, 0) == ICE_ERROR_CONFIG);
  CHECK(ice_store_barrier(store, "a", -3, 0) == ICE_ERROR_CONFIG);
  ARGUMENT(ice_store_broadcast(NULL, "a", 0, 0, blob, 8, 0));
  ARGUMENT(ice_store_broadcast(store, NULL, 0, 0, blob, 8, 0));
  ARGUMENT(ice_store_broadcast(store, "a", 0, 0, NULL, 8, 0));
  ARGUMENT(ice_store_broadcast(store, "a", 0, 1, NULL, 8, 0));
  ARGUMENT(ice_store_broadcast(store, "a", 0, -1, blob, 8, 0));
  /* Nothing of this was done, no output was touched, and the connection is good. */
  CHECK(other == (ice_store *)&WRONG && values == (ice_store_values *)&WRONG && flag == 77 && sum == 77);
  CHECK(ice_store_num_keys(store, &sum) == ICE_OK && sum == 0);
  /* No pointer is needed for nothing. */
  CHECK(ice_store_set(store, "a", NULL, 0) == ICE_OK);
  CHECK(ice_store_wait(store, NULL, 0, 0) == ICE_OK);
  CHECK(ice_store_multi_set(store, NULL, NULL, NULL, 0) == ICE_OK);
  CHECK(ice_store_check(store, NULL, 0, &flag) == ICE_OK && flag == 1);
  CHECK(ice_store_broadcast(store, "b", 0, 0, NULL, 0, 0) == ICE_OK);
  CHECK(ice_store_broadcast(store, "b", 0, 1, NULL, 0, 0) == ICE_OK);
  CHECK(ice_store_get(store, "a", 0, &values) == ICE_OK);
  CHECK(ice_store_values_count(values) == 1 && ice_store_values_length(values, 0) == 0);
  CHECK(ice_store_values_data(values, 0)[0] == 0);
  CHECK(ice_store_values_data(values, 1) == NULL && ice_store_values_length(values, 1) == 0);
  CHECK(ice_store_values_count(NULL) == 0 && ice_store_values_data(NULL, 0) == NULL);
  CHECK(ice_store_values_length(NULL, 0) == 0);
  /* In any order. */
  CHECK(ice_store_prefix(store, "p", &other) == ICE_OK);
  ice_store_free(store);
  CHECK(ice_store_set(other, "a", "1", 1) == ICE_OK);
  CHECK(ice_store_num_keys(other, &sum) == ICE_OK && sum == 5);
  ice_store_server_free(server);
  CHECK(ice_store_num_keys(other, &sum) == ICE_ERROR_STORE);
  CHECK(ice_store_num_keys(other, &sum) == ICE_ERROR_STORE);
  ice_store_free(other);
  ice_store_values_free(values);
  ice_store_server_free(NULL);
  ice_store_free(NULL);
  ice_store_values_free(NULL);
}

static void *adds_of_a_thread(void *store) {
  int64_t sum;
  for (int i = 0; i < 500; i++) CHECK(ice_store_add(store, "n", 1, &sum) == ICE_OK);
  return NULL;
}

/* One connection in several threads, and in a forked copy of its process. */
static void store(void) {
  ice_store_server *server = NULL;
  ice_store *store = NULL, *other = NULL;
  int64_t sum = 0;
  pthread_t threads[8];
  CHECK(ice_store_server_new("127.0.0.1", 0, 0, &server) == ICE_OK);
  CHECK(ice_store_connect("127.0.0.1", ice_store_server_port(server), 10, &store) == ICE_OK);
  for (int i = 0; i < 8; i++) pthread_create(&threads[i], NULL, adds_of_a_thread, store);
  for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
  CHECK(ice_store_add(store, "n", 0, &sum) == ICE_OK && sum == 4000);
  pid_t child = fork();
  if (child == 0) {
    WRONG = 0;
    CHECK(ice_store_set(store, "a", "1", 1) == ICE_ERROR_FORKED);
    CHECK(ice_store_prefix(store, "a", &other) == ICE_ERROR_FORKED && other == NULL);
    CHECK(strstr(ice_last_error_message(), "store") != NULL);
    CHECK(ice_store_server_port(server) == 0);
    ice_store_free(store);
    ice_store_server_free(server);
    /* Not an exit: what the server's thread had is lost in the copy, and nobody is to look for it. */
    if (!WRONG) execl("/bin/true", "true", (char *)NULL);
    _exit(1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  /* The copy has closed nothing of ours. */
  CHECK(ice_store_add(store, "n", 1, &sum) == ICE_OK && sum == 4001);
  ice_store_free(store);
  ice_store_server_free(server);
}

/* A handle of a program outside an agent: all succeeds and nothing happens. */
static void null_worker(void) {
  ice_worker *worker = NULL;
  ice_request request = {.kind = 77};
  ARGUMENT(ice_worker_open(NULL));
  ice_worker_close(NULL);
  ice_worker_step(NULL, 1);
  ice_worker_progress(NULL, 1, 2);
  ice_worker_heartbeat(NULL);
  CHECK(ice_worker_has_control(NULL) == 0);
  CHECK(ice_worker_poll(NULL, &request) == ICE_REQUEST_NONE && request.kind == 77);
  ARGUMENT(ice_worker_acknowledge(NULL, 1));
  ARGUMENT(ice_worker_expires(NULL, "a", 1));
  ARGUMENT(ice_worker_release(NULL, "a"));
  ARGUMENT(ice_worker_debug_begin(NULL));
  ARGUMENT(ice_worker_debug_end(NULL));
  ARGUMENT(ice_worker_section(NULL, "a"));
  ARGUMENT(ice_worker_request_restart(NULL));
  CHECK(ice_worker_open(&worker) == ICE_OK);
  CHECK(ice_worker_has_control(worker) == 0);
  CHECK(ice_worker_rank(worker) == 0 && ice_worker_world_size(worker) == 1 && ice_worker_restart_count(worker) == 0);
  ice_worker_step(worker, 5);
  CHECK(ice_worker_poll(worker, NULL) == ICE_REQUEST_NONE);
  CHECK(ice_worker_acknowledge(worker, 1) == ICE_ERROR_STATE);
  ARGUMENT(ice_worker_expires(worker, NULL, 1));
  ARGUMENT(ice_worker_release(worker, NULL));
  CHECK(ice_worker_expires(worker, "a", -1) == ICE_ERROR_CONFIG);
  CHECK(ice_worker_expires(worker, "a", NAN) == ICE_ERROR_CONFIG);
  CHECK(ice_worker_expires(worker, "a", 0.001) == ICE_OK);
  CHECK(ice_worker_release(worker, "b") == ICE_OK);
  CHECK(ice_worker_debug_begin(worker) == ICE_OK);
  CHECK(ice_worker_debug_end(worker) == ICE_OK);
  ARGUMENT(ice_worker_section(worker, ""));
  CHECK(ice_worker_section(worker, "a") == ICE_OK && ice_worker_section(worker, NULL) == ICE_OK);
  CHECK(ice_worker_request_restart(worker) == ICE_OK);
  CHECK(ice_worker_return(worker, "a", 1) == ICE_ERROR_STATE);
  ice_worker_close(worker);
}

static void null(void) {
  ice_spec *spec = NULL;
  ice_agent *agent = NULL;
  ice_result *result = (ice_result *)&WRONG;
  ice_snapshot *snapshot = (ice_snapshot *)&WRONG;
  int fd = 77;
  null_store();
  null_spec();
  CHECK(strstr(ice_last_error_message(), "spec") != NULL);
  CHECK(ice_spec_new(&spec) == ICE_OK);
  null_texts(spec);
  null_rendezvous(spec);
  /* None of these refusals was of a value: the spec is still good. */
  CHECK(ice_spec_set_program(spec, "/bin/true") == ICE_OK);
  CHECK(ice_agent_new(spec, &agent) == ICE_OK);
  ARGUMENT(ice_agent_new(spec, NULL));
  ARGUMENT(ice_agent_new(NULL, &agent));
  ARGUMENT(ice_agent_run(NULL, &result));
  ARGUMENT(ice_agent_run(agent, NULL));
  ARGUMENT(ice_agent_start(NULL));
  ARGUMENT(ice_agent_prepare(NULL));
  ARGUMENT(ice_agent_wait(NULL, 0, &result));
  ARGUMENT(ice_agent_wait(agent, 0, NULL));
  ARGUMENT(ice_agent_poll_fd(NULL, &fd));
  ARGUMENT(ice_agent_poll_fd(agent, NULL));
  ARGUMENT(ice_agent_stop(NULL, 0));
  ARGUMENT(ice_agent_stop(agent, -1));
  ARGUMENT(ice_agent_stop(agent, 65));
  ARGUMENT(ice_agent_signal(NULL, SIGUSR1));
  ARGUMENT(ice_agent_signal(agent, 65));
  ARGUMENT(ice_agent_signal(agent, -3));
  ARGUMENT(ice_agent_snapshot(NULL, &snapshot));
  ARGUMENT(ice_agent_snapshot(agent, NULL));
  ice_plan *plan = (ice_plan *)&WRONG;
  ARGUMENT(ice_agent_plan(NULL, &plan));
  ARGUMENT(ice_agent_plan(agent, NULL));
  ice_device_list *list = NULL;
  ARGUMENT(ice_device_list_new(1, NULL, NULL));
  ARGUMENT(ice_device_list_new(-1, NULL, &list));
  ARGUMENT(ice_device_list_new(NAN, NULL, &list));
  CHECK(ice_device_list_new(1, "", &list) == ICE_ERROR_CONFIG);
  CHECK(list == NULL);
  ice_device_list_free(NULL);
  ARGUMENT(ice_worker_return(NULL, "a", 1));
  void *out = &WRONG;
  ARGUMENT(ice_worker_return_buffer(NULL, 1, &out));
  ARGUMENT(ice_worker_record_error(NULL, "a"));
  const void *data = &WRONG;
  size_t length = 77;
  ARGUMENT(ice_worker_argument(NULL, &data, &length));
  CHECK(data == &WRONG && length == 77);
  ice_answers *answers = (ice_answers *)&WRONG;
  ARGUMENT(ice_agent_request_checkpoint(NULL, 1, &answers));
  ARGUMENT(ice_agent_request_checkpoint(agent, 1, NULL));
  ARGUMENT(ice_agent_pause(NULL, 1, &answers));
  ARGUMENT(ice_agent_resume(NULL));
  ARGUMENT(ice_agent_request_stop(NULL, 1, &answers));
  CHECK(ice_agent_request_stop(agent, NAN, &answers) == ICE_ERROR_CONFIG);
  CHECK(ice_agent_request_checkpoint(agent, 1, &answers) == ICE_ERROR_STATE);
  CHECK(answers == (ice_answers *)&WRONG);
  CHECK(ice_answers_complete(NULL) == 0 && ice_answers_count(NULL) == 0 && ice_answers_took_ns(NULL) == 0);
  CHECK(ice_answers_of_rank(NULL, 0) == ICE_ANSWER_NONE && ice_answers_step(NULL, 0) == -1);
  ice_answers_free(NULL);
  null_worker();
  ARGUMENT(ice_worker_register(NULL, do_nothing, NULL));
  ARGUMENT(ice_worker_register("a", NULL, NULL));
  /* Outputs were not touched. */
  CHECK(result == (ice_result *)&WRONG && snapshot == (ice_snapshot *)&WRONG && fd == 77 && out == &WRONG);
  CHECK(ice_worker_rank(NULL) == -1);
  CHECK(ice_worker_local_rank(NULL) == -1);
  CHECK(ice_worker_role_rank(NULL) == -1);
  CHECK(ice_worker_world_size(NULL) == -1);
  CHECK(ice_worker_local_world_size(NULL) == -1);
  CHECK(ice_worker_restart_count(NULL) == -1);
  /* An agent that refused a NULL still runs. */
  result = NULL;
  CHECK(ice_agent_run(agent, &result) == ICE_OK);
  CHECK(ice_result_end(result) == ICE_END_SUCCEEDED);
  ice_result_free(result);
  ice_agent_free(agent);
  ice_spec_free(spec);
  ice_spec_free(NULL);
  ice_agent_free(NULL);
  ice_result_free(NULL);
  ice_snapshot_free(NULL);
}

static void record(const char *file) {
  char text[4096], missing[4096];
  unsetenv("TORCHELASTIC_ERROR_FILE");
  CHECK(ice_worker_record_error("m", NULL) == ICE_ERROR_STATE);
  setenv("TORCHELASTIC_ERROR_FILE", "", 1);
  CHECK(ice_worker_record_error("m", NULL) == ICE_ERROR_STATE);
  snprintf(missing, sizeof missing, "%s.d/missing/file", file);
  setenv("TORCHELASTIC_ERROR_FILE", missing, 1);
  CHECK(ice_worker_record_error("m", NULL) == ICE_ERROR_SYSTEM);
  CHECK(strstr(ice_last_error_message(), missing) != NULL);
  /* A program that is no worker of this library writes the file all the same; a later call replaces it. */
  setenv("TORCHELASTIC_ERROR_FILE", file, 1);
  CHECK(ice_worker_record_error("first", "stack") == ICE_OK);
  CHECK(ice_worker_record_error("second \xff bytes", NULL) == ICE_OK);
  read_file(file, text, sizeof text);
  CHECK(strstr(text, "second") != NULL && strstr(text, "first") == NULL);
  CHECK(json_utf8((const unsigned char *)text, strlen(text)));
}

static void *errors_of_a_thread(void *number) {
  char mine[64];
  CHECK(ice_last_error_message() != NULL && ice_last_error_message()[0] == 0);
  for (int i = 0; i < 2000; i++) {
    ice_spec *spec = NULL;
    ice_spec_new(&spec);
    int port = 100000 + *(int *)number * 10000 + i;
    CHECK(ice_spec_set_master_port(spec, port) == ICE_ERROR_CONFIG);
    snprintf(mine, sizeof mine, "%d", port);
    CHECK(strstr(ice_last_error_message(), mine) != NULL);
    ice_spec_free(spec);
  }
  return NULL;
}

static void errors(void) {
  ice_spec *spec = NULL;
  CHECK(ice_last_error_message()[0] == 0);
  CHECK(ice_spec_new(&spec) == ICE_OK);
  CHECK(ice_last_error_message()[0] == 0);
  CHECK(ice_spec_set_local_world_size(spec, 0) == ICE_ERROR_CONFIG);
  const char *message = ice_last_error_message();
  char copy[512];
  snprintf(copy, sizeof copy, "%s", message);
  /* A success does not clear it, and the pointer stays good. */
  CHECK(ice_spec_set_role(spec, "x") == ICE_OK);
  CHECK(ice_last_error_message() == message && strcmp(copy, message) == 0);
  /* Bytes that are no text do not get through; nor do newlines. */
  CHECK(ice_spec_set_redirects(spec, "\xff\xfe\n0") == ICE_ERROR_CONFIG);
  message = ice_last_error_message();
  CHECK(json_utf8((const unsigned char *)message, strlen(message)));
  CHECK(strchr(message, '\n') == NULL);
  CHECK(ice_spec_set_env(spec, "A=\xff\n\r\x1b[31m", "b") == ICE_ERROR_CONFIG);
  message = ice_last_error_message();
  CHECK(json_utf8((const unsigned char *)message, strlen(message)));
  CHECK(strchr(message, '\n') == NULL);
  ice_spec_free(spec);
  pthread_t threads[8];
  int numbers[8];
  for (int i = 0; i < 8; i++) {
    numbers[i] = i;
    pthread_create(&threads[i], NULL, errors_of_a_thread, &numbers[i]);
  }
  for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
  CHECK(strcmp(ice_last_error_message(), message) == 0);
}

static ice_agent *agent_of(const char *program, const char *arg) {
  ice_spec *spec = NULL;
  ice_agent *agent = NULL;
  CHECK(ice_spec_new(&spec) == ICE_OK);
  CHECK(ice_spec_set_program(spec, program) == ICE_OK);
  if (arg) CHECK(ice_spec_add_arg(spec, arg) == ICE_OK);
  CHECK(ice_spec_set_max_restarts(spec, 0) == ICE_OK);
  CHECK(ice_agent_new(spec, &agent) == ICE_OK);
  ice_spec_free(spec);
  return agent;
}

static void states(void) {
  ice_result *result = NULL, *again = NULL;
  ice_snapshot *snapshot = NULL;
  int fd = -1, same = -2;
  ice_agent *agent = agent_of("/bin/sleep", "0.3");
  CHECK(ice_agent_wait(agent, 0, &result) == ICE_ERROR_STATE);
  CHECK(ice_agent_wait(agent, -1, &result) == ICE_ERROR_STATE);
  CHECK(ice_agent_signal(agent, SIGUSR1) == ICE_OK);
  CHECK(ice_agent_snapshot(agent, &snapshot) == ICE_OK);
  CHECK(ice_snapshot_state(snapshot) == ICE_STATE_INIT);
  CHECK(ice_snapshot_attempt(snapshot) == 0);
  CHECK(ice_snapshot_worker_count(snapshot) == 1);
  CHECK(ice_snapshot_worker(snapshot, 0)->pid == 0);
  CHECK(ice_snapshot_worker(snapshot, 0)->outcome == ICE_OUTCOME_NEVER_STARTED);
  CHECK(ice_snapshot_worker(snapshot, 1) == NULL);
  ice_snapshot_free(snapshot);
  CHECK(ice_agent_start(agent) == ICE_OK);
  CHECK(ice_agent_start(agent) == ICE_ERROR_STATE);
  CHECK(ice_agent_run(agent, &result) == ICE_ERROR_STATE);
  CHECK(ice_agent_poll_fd(agent, &fd) == ICE_OK && ice_agent_poll_fd(agent, &same) == ICE_OK && fd == same);
  CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  CHECK(ice_agent_wait(agent, 0, &result) == ICE_ERROR_TIMEOUT);
  CHECK(ice_agent_wait(agent, 0.01, &result) == ICE_ERROR_TIMEOUT);
  CHECK(result == NULL);
  CHECK(ice_agent_wait(agent, NAN, &result) != ICE_ERROR_INTERNAL);
  if (!result) CHECK(ice_agent_wait(agent, -1, &result) == ICE_OK);
  CHECK(ice_agent_wait(agent, 0, &again) == ICE_OK);
  CHECK(again != result);
  CHECK(strcmp(ice_result_summary(result), ice_result_summary(again)) == 0);
  CHECK(ice_result_worker(result, 0)->pid == ice_result_worker(again, 0)->pid);
  ice_result_free(again);
  CHECK(ice_agent_wait(agent, INFINITY, &again) == ICE_OK);
  CHECK(ice_agent_start(agent) == ICE_ERROR_STATE);
  /* After the end a stop and a signal change nothing. */
  CHECK(ice_agent_stop(agent, 0) == ICE_OK);
  CHECK(ice_agent_signal(agent, SIGUSR1) == ICE_OK);
  CHECK(ice_result_end(again) == ICE_END_SUCCEEDED);
  CHECK(ice_agent_snapshot(agent, &snapshot) == ICE_OK);
  CHECK(ice_snapshot_state(snapshot) == ICE_STATE_SUCCEEDED);
  ice_agent_free(agent);
  CHECK(ice_snapshot_worker(snapshot, 0)->outcome == ICE_OUTCOME_EXITED);
  CHECK(strcmp(ice_result_summary(result), ice_result_summary(again)) == 0);
  ice_snapshot_free(snapshot);
  ice_result_free(result);
  ice_result_free(again);
  /* Stopped before its start: no worker comes to be. */
  agent = agent_of("/bin/sleep", "100");
  CHECK(ice_agent_stop(agent, 0) == ICE_OK);
  CHECK(ice_agent_run(agent, &result) == ICE_OK);
  CHECK(ice_result_end(result) == ICE_END_INTERRUPTED);
  CHECK(ice_result_worker(result, 0)->pid == 0);
  CHECK(ice_result_worker(result, 0)->cause == ICE_CAUSE_NEVER_STARTED);
  ice_result_free(result);
  ice_agent_free(agent);
  /* Never started, and freed. */
  ice_agent_free(agent_of("/bin/sleep", "100"));
}

static void getters(void) {
  CHECK(ice_result_end(NULL) == ICE_END_AGENT_ERROR);
  CHECK(ice_result_is_failed(NULL) == 1);
  CHECK(ice_result_state(NULL) == ICE_STATE_UNKNOWN);
  CHECK(ice_result_restarts(NULL) == 0);
  CHECK(ice_result_flakiness(NULL) == 100);
  CHECK(ice_result_has_saved(NULL) == 0 && ice_result_saved_step(NULL) == -1);
  CHECK(strcmp(ice_spec_dist_backend(NULL), "") == 0);
  CHECK(ice_plan_worker_count(NULL) == 0);
  CHECK(ice_plan_worker(NULL, 0) == NULL);
  CHECK(strcmp(ice_plan_dist_backend(NULL), "") == 0);
  CHECK(ice_plan_source_count(NULL) == 0 && ice_plan_source_at(NULL, 0) == NULL);
  CHECK(ice_scheduler_name() != NULL && ice_scheduler_name() == ice_scheduler_name());
  ice_plan_free(NULL);
  CHECK(ice_result_signal(NULL) == 0);
  CHECK(ice_result_all_exited_cleanly(NULL) == 0);
  CHECK(ice_result_errno(NULL) == 0);
  CHECK(ice_result_message(NULL) != NULL);
  CHECK(ice_result_summary(NULL) != NULL);
  CHECK(ice_result_run_dir(NULL) != NULL);
  CHECK(ice_result_worker_count(NULL) == 0);
  CHECK(ice_result_worker(NULL, 0) == NULL);
  CHECK(ice_result_worker_of_rank(NULL, 0) == NULL);
  CHECK(ice_result_root_cause(NULL) == NULL);
  CHECK(ice_result_failure_count(NULL) == 0);
  CHECK(ice_result_failure(NULL, 0) == NULL);
  CHECK(ice_snapshot_state(NULL) == ICE_STATE_UNKNOWN);
  CHECK(ice_snapshot_attempt(NULL) == -1);
  CHECK(ice_snapshot_worker_count(NULL) == 0);
  CHECK(ice_snapshot_worker(NULL, 0) == NULL);
  CHECK(ice_snapshot_slowest(NULL) == -1);
  CHECK(ice_device_list_count(NULL) == 0);
  CHECK(ice_device_list_device(NULL, 0) == NULL);
  CHECK(ice_device_list_driver_version(NULL) == 0);
  CHECK(ice_device_list_message(NULL) != NULL);
  ice_agent *agent = agent_of("/bin/false", NULL);
  ice_result *r = NULL;
  CHECK(ice_agent_run(agent, &r) == ICE_OK);
  ice_agent_free(agent);
  CHECK(ice_result_worker_count(r) == 1);
  CHECK(ice_result_worker(r, 1) == NULL && ice_result_worker(r, (size_t)-1) == NULL);
  CHECK(ice_result_worker_of_rank(r, 1) == NULL && ice_result_worker_of_rank(r, -1) == NULL);
  CHECK(ice_result_worker_of_rank(r, 0) == ice_result_worker(r, 0));
  CHECK(ice_result_failure_count(r) == 1);
  CHECK(ice_result_failure(r, 1) == NULL && ice_result_failure(r, (size_t)-1) == NULL);
  const ice_worker_result *w = ice_result_worker(r, 0);
  CHECK(w->message && w->call_stack && w->error_file && w->stderr_tail && w->stdout_log && w->stderr_log && w->stack);
  CHECK(w->exit_code == 1 && w->start_ns > 0 && w->end_ns >= w->start_ns && w->end_unix_ns > 0);
  CHECK(w->max_rss_bytes > 0);
  CHECK(ice_result_summary(r)[0] != 0 && ice_result_message(r)[0] != 0);
  CHECK(strchr(ice_result_message(r), '\n') == NULL);
  ice_result_free(r);
}

static int32_t do_other(ice_worker *worker, void *user_data) { return worker == user_data; }

/* Whether an agent of this spec is refused with these words; the spec is freed. */
static int refused(ice_spec *spec, const char *one, const char *other) {
  ice_agent *agent = NULL;
  ice_status status = ice_agent_new(spec, &agent);
  ice_spec_free(spec);
  ice_agent_free(agent);
  return status == ICE_ERROR_CONFIG && strstr(ice_last_error_message(), one) && strstr(ice_last_error_message(), other);
}

static ice_spec *spec_of(int32_t method, const char *library, const char *name) {
  ice_spec *spec = NULL;
  CHECK(ice_spec_new(&spec) == ICE_OK);
  if (name)
    CHECK(ice_spec_set_function(spec, library, name) == ICE_OK);
  else
    CHECK(ice_spec_set_callback(spec, do_nothing, NULL) == ICE_OK);
  if (method >= 0) CHECK(ice_spec_set_start_method(spec, method) == ICE_OK);
  return spec;
}

static void functions(void) {
  ice_spec *spec;
  CHECK(ice_worker_register("", do_nothing, NULL) == ICE_ERROR_CONFIG);
  CHECK(ice_worker_register("one", do_nothing, NULL) == ICE_OK);
  CHECK(ice_worker_register("one", do_nothing, NULL) == ICE_OK);
  CHECK(ice_worker_register("two", do_nothing, NULL) == ICE_OK);
  CHECK(ice_worker_register("one", do_other, NULL) == ICE_ERROR_CONFIG);
  CHECK(strstr(ice_last_error_message(), "one") != NULL);
  CHECK(ice_worker_register("one", do_nothing, &WRONG) == ICE_ERROR_CONFIG);
  /* The call in main is missing so far. */
  CHECK(refused(spec_of(-1, NULL, "one"), "spawn", "ice_worker_main()"));
  CHECK(refused(spec_of(ICE_START_FORKSERVER, NULL, "one"), "forkserver", "ice_worker_main()"));
  CHECK(ice_worker_main() == ICE_OK);
  CHECK(ice_worker_main() == ICE_OK);
  /* Values that are none. */
  for (int32_t method = -2; method < 6; method++) {
    if (method >= 0 && method <= 2) continue;
    spec = spec_of(-1, NULL, "one");
    CHECK(ice_spec_set_start_method(spec, method) == ICE_ERROR_CONFIG);
    CHECK(strstr(ice_last_error_message(), "start_method") != NULL);
    CHECK(refused(spec, "start_method", "ice_start_method"));
  }
  spec = spec_of(-1, NULL, "one");
  CHECK(ice_spec_set_function(spec, NULL, "") == ICE_ERROR_CONFIG);
  CHECK(refused(spec, "function", "empty"));
  spec = spec_of(-1, NULL, "one");
  CHECK(ice_spec_set_function(spec, "", "one") == ICE_ERROR_CONFIG);
  CHECK(refused(spec, "", "empty"));
  spec = spec_of(-1, NULL, "one");
  CHECK(ice_spec_set_warm_up(spec, "") == ICE_ERROR_CONFIG);
  CHECK(refused(spec, "warm_up", "empty"));
  spec = spec_of(-1, "lib.so", "one");
  CHECK(ice_spec_set_runner(spec, "") == ICE_ERROR_CONFIG);
  CHECK(refused(spec, "runner", "empty"));
  /* What does not go together. */
  CHECK(refused(spec_of(ICE_START_SPAWN, NULL, NULL), "start_method", "callback"));
  CHECK(refused(spec_of(ICE_START_FORKSERVER, NULL, NULL), "start_method", "callback"));
  CHECK(refused(spec_of(ICE_START_FORK, "lib.so", "one"), "start_method", "fork"));
  CHECK(refused(spec_of(ICE_START_FORK, NULL, "three"), "three", "\"two\""));
  spec = spec_of(-1, NULL, "one");
  CHECK(ice_spec_set_warm_up(spec, "two") == ICE_OK);
  CHECK(refused(spec, "warm_up", "forkserver"));
  spec = spec_of(-1, NULL, "one");
  CHECK(ice_spec_set_runner(spec, "/bin/true") == ICE_OK);
  CHECK(refused(spec, "runner", "shared object"));
  spec = spec_of(-1, NULL, "one");
  CHECK(ice_spec_add_arg(spec, "a") == ICE_OK);
  CHECK(refused(spec, "args", "ice_spec_set_argument()"));
  spec = spec_of(-1, NULL, "one");
  CHECK(ice_spec_set_program(spec, "/bin/true") == ICE_OK);
  CHECK(refused(spec, "program", "function"));
  spec = spec_of(-1, NULL, "one");
  CHECK(ice_spec_set_callback(spec, do_nothing, NULL) == ICE_OK);
  CHECK(refused(spec, "callback", "function"));
  /* An argument of nothing is one; a program takes none of this to heart. */
  spec = spec_of(-1, NULL, "one");
  CHECK(ice_spec_set_argument(spec, NULL, 0) == ICE_OK);
  CHECK(ice_spec_set_argument(spec, "abc", 3) == ICE_OK);
  ice_spec_free(spec);
  CHECK(ice_spec_new(&spec) == ICE_OK);
  CHECK(ice_spec_set_program(spec, "/bin/true") == ICE_OK);
  CHECK(ice_spec_set_start_method(spec, ICE_START_FORKSERVER) == ICE_OK);
  ice_agent *agent = NULL;
  ice_result *result = NULL;
  CHECK(ice_agent_new(spec, &agent) == ICE_OK);
  CHECK(ice_agent_prepare(agent) == ICE_OK);
  CHECK(ice_agent_wait(agent, 0, &result) == ICE_ERROR_STATE);
  CHECK(ice_agent_prepare(agent) == ICE_ERROR_STATE);
  CHECK(ice_agent_run(agent, &result) == ICE_OK);
  CHECK(ice_result_end(result) == ICE_END_SUCCEEDED);
  CHECK(ice_agent_prepare(agent) == ICE_ERROR_STATE);
  ice_result_free(result);
  ice_agent_free(agent);
  ice_spec_free(spec);
}

static void strings(void) {
  static const struct {
    int32_t status;
    const char *name;
  } NAMES[] = {{ICE_OK, "ICE_OK"},
               {ICE_ERROR_ARGUMENT, "ICE_ERROR_ARGUMENT"},
               {ICE_ERROR_CONFIG, "ICE_ERROR_CONFIG"},
               {ICE_ERROR_STATE, "ICE_ERROR_STATE"},
               {ICE_ERROR_TIMEOUT, "ICE_ERROR_TIMEOUT"},
               {ICE_ERROR_FORKED, "ICE_ERROR_FORKED"},
               {ICE_ERROR_SYSTEM, "ICE_ERROR_SYSTEM"},
               {ICE_ERROR_INTERNAL, "ICE_ERROR_INTERNAL"},
               {ICE_ERROR_START, "ICE_ERROR_START"},
               {ICE_ERROR_DEVICE, "ICE_ERROR_DEVICE"},
               {ICE_ERROR_STORE, "ICE_ERROR_STORE"},
               {ICE_ERROR_STALE, "ICE_ERROR_STALE"}};
  for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
    CHECK(strcmp(ice_status_string(NAMES[i].status), NAMES[i].name) == 0);
  CHECK(strcmp(ice_status_string(1), "unknown status") == 0);
  CHECK(strcmp(ice_status_string(-12), "unknown status") == 0);
  CHECK(strcmp(ice_status_string(INT32_MIN), "unknown status") == 0);
  size_t count = ice_option_count();
  CHECK(count > 80 && !ice_option_at(count) && !ice_option_at(SIZE_MAX));
  for (size_t i = 0; i < count; i++) {
    const ice_option *option = ice_option_at(i);
    CHECK(option == ice_option_at(i) && *option->name && *option->heading && *option->help);
    CHECK(option->also && option->argument && option->words && option->standard);
    CHECK(option->kind >= ICE_OPTION_FLAG && option->kind <= ICE_OPTION_EACH);
    CHECK((option->kind == ICE_OPTION_FLAG) == !*option->argument);
    CHECK(option->kind != ICE_OPTION_WORD || *option->words);
  }
  puts(ice_version());
}

int main(int argc, char **argv) {
  const char *mode = argc > 1 ? argv[1] : "";
  setlocale(LC_ALL, "");
  if (strcmp(mode, "null") == 0)
    null();
  else if (strcmp(mode, "record") == 0 && argc > 2)
    record(argv[2]);
  else if (strcmp(mode, "errors") == 0)
    errors();
  else if (strcmp(mode, "states") == 0)
    states();
  else if (strcmp(mode, "getters") == 0)
    getters();
  else if (strcmp(mode, "functions") == 0)
    functions();
  else if (strcmp(mode, "store") == 0)
    store();
  else if (strcmp(mode, "strings") == 0)
    strings();
  else
    return 2;
  return WRONG != 0;
}
