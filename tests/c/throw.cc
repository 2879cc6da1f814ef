// A C++ exception that leaves the callback ends the worker, and only the worker.
#include <ice.h>

#include <cstdio>
#include <stdexcept>

static int32_t throws(ice_worker *, void *) { throw std::runtime_error("left the callback"); }

int main() {
  ice_spec *spec = nullptr;
  ice_agent *agent = nullptr;
  ice_result *result = nullptr;
  if (ice_spec_new(&spec) != ICE_OK || ice_spec_set_callback(spec, throws, nullptr) != ICE_OK ||
      ice_spec_set_max_restarts(spec, 0) != ICE_OK || ice_agent_new(spec, &agent) != ICE_OK ||
      ice_agent_run(agent, &result) != ICE_OK) {
    std::fprintf(stderr, "%s\n", ice_last_error_message());
    return 1;
  }
  const ice_worker_result *worker = ice_result_worker(result, 0);
  std::printf("end %d outcome %d signal %d\n", static_cast<int>(ice_result_end(result)),
              static_cast<int>(worker->outcome), static_cast<int>(worker->signal));
  ice_result_free(result);
  ice_agent_free(agent);
  ice_spec_free(spec);
  return 0;
}
