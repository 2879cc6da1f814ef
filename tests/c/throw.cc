// A C++ exception that leaves the function ends the worker, and only the worker:
//   throw METHOD [LIBRARY]      a callback for method 0, else a function of this program, or of the shared object
#include <ice.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

extern "C" int32_t throws(ice_worker *, void *) { throw std::runtime_error("left the function"); }

int main(int argc, char **argv) {
  ice_spec *spec = nullptr;
  ice_agent *agent = nullptr;
  ice_result *result = nullptr;
  ice_worker_register("throws", throws, nullptr);
  ice_worker_main();
  const int method = argc > 1 ? std::atoi(argv[1]) : 0;
  const char *library = argc > 2 ? argv[2] : nullptr;
  ice_spec_new(&spec);
  const ice_status set = method == ICE_START_FORK ? ice_spec_set_callback(spec, throws, nullptr)
                                                  : ice_spec_set_function(spec, library, "throws");
  if (set != ICE_OK || ice_spec_set_start_method(spec, method) != ICE_OK ||
      ice_spec_set_log_dir(spec, "logs") != ICE_OK ||
      ice_spec_set_max_restarts(spec, 0) != ICE_OK || ice_agent_new(spec, &agent) != ICE_OK ||
      ice_agent_run(agent, &result) != ICE_OK) {
    std::fprintf(stderr, "%s\n", ice_last_error_message());
    return 1;
  }
  const ice_worker_result *worker = ice_result_worker(result, 0);
  std::fprintf(stderr, "%s\n", worker->call_stack);
  std::printf("end %d outcome %d signal %d\n", static_cast<int>(ice_result_end(result)),
              static_cast<int>(worker->outcome), static_cast<int>(worker->signal));
  ice_result_free(result);
  ice_agent_free(agent);
  ice_spec_free(spec);
  return 0;
}
