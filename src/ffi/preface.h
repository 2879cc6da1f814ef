/* libice: start, watch and restart the worker processes of a parallel program.
 *
 *   ice_spec *spec;
 *   ice_agent *agent;
 *   ice_result *result;
 *   ice_spec_new(&spec);
 *   ice_spec_set_program(spec, "./train");
 *   ice_spec_set_local_world_size(spec, 8);
 *   if (ice_agent_new(spec, &agent) != ICE_OK) {
 *     fprintf(stderr, "%s\n", ice_last_error_message());
 *     return 2;
 *   }
 *   ice_spec_free(spec);
 *   if (ice_agent_run(agent, &result) == ICE_OK) {
 *     fputs(ice_result_summary(result), stderr);
 *     ice_result_free(result);
 *   }
 *   ice_agent_free(agent);
 *
 * Conventions that hold everywhere:
 *   - Every function that can fail returns an ice_status and writes its outputs only on ICE_OK.
 *     ice_last_error_message() then has the reason, per thread.
 *   - `_new` makes a handle that the caller owns, `_free` ends it; free(NULL) is fine; handles may be
 *     freed in any order. Everything else that is returned is borrowed: valid until its owner is freed.
 *   - Strings in are NUL-terminated bytes, copied before the function returns. Times are seconds unless
 *     a name ends in `_ns` (nanoseconds); sizes are bytes.
 *   - After a fork(2) of the host, handles answer ICE_ERROR_FORKED in the child; `_free` is fine there.
 *   - Callbacks are called without any lock held. They must not unwind (C++ exceptions, longjmp) into
 *     the library.
 *
 * This file is generated from the library's source; do not edit it.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
