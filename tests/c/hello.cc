// A hello-run from C++: two callbacks, what they return, and the enums as their own types.
#include <ice.h>

#include <cstdio>
#include <memory>
#include <string>

struct free_spec {
  void operator()(ice_spec *spec) const { ice_spec_free(spec); }
};
struct free_agent {
  void operator()(ice_agent *agent) const { ice_agent_free(agent); }
};
struct free_result {
  void operator()(ice_result *result) const { ice_result_free(result); }
};

static int32_t hello(ice_worker *worker, void *user_data) {
  std::string text = *static_cast<std::string *>(user_data) + std::to_string(ice_worker_rank(worker));
  return ice_worker_return(worker, text.data(), text.size());
}

int main() {
  std::string greeting = "hello_";
  ice_spec *raw_spec = nullptr;
  ice_agent *raw_agent = nullptr;
  ice_result *raw_result = nullptr;
  if (ice_spec_new(&raw_spec) != ICE_OK) return 1;
  std::unique_ptr<ice_spec, free_spec> spec(raw_spec);
  ice_spec_set_local_world_size(spec.get(), 2);
  ice_spec_set_callback(spec.get(), hello, &greeting);
  ice_status status = ice_agent_new(spec.get(), &raw_agent);
  if (status != ICE_OK) return 1;
  std::unique_ptr<ice_agent, free_agent> agent(raw_agent);
  if (ice_agent_run(agent.get(), &raw_result) != ICE_OK) return 1;
  std::unique_ptr<ice_result, free_result> result(raw_result);
  ice_end end = ice_result_end(result.get());
  if (end != ICE_END_SUCCEEDED) return 1;
  for (size_t i = 0; i < ice_result_worker_count(result.get()); i++) {
    const ice_worker_result *worker = ice_result_worker(result.get(), i);
    std::printf("%s\n", std::string(static_cast<const char *>(worker->value), worker->value_size).c_str());
  }
  return 0;
}
