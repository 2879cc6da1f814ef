"""A hello-run through ctypes: `hello.py LIBRARY`. Prints how it ended."""

import ctypes
import sys

ice = ctypes.CDLL(sys.argv[1])
pointer = ctypes.c_void_p
ice.ice_last_error_message.restype = ctypes.c_char_p
ice.ice_result_summary.restype = ctypes.c_char_p
for name in ("result_summary", "result_end", "result_free", "agent_free", "spec_free"):
    getattr(ice, "ice_" + name).argtypes = [pointer]


def ok(status):
    if status != 0:
        sys.exit(ice.ice_last_error_message().decode())


spec, agent, result = pointer(), pointer(), pointer()
ok(ice.ice_spec_new(ctypes.byref(spec)))
ok(ice.ice_spec_set_program(spec, b"sh"))
for arg in (b"-c", b"exit $RANK"):
    ok(ice.ice_spec_add_arg(spec, arg))
ok(ice.ice_spec_set_local_world_size(spec, ctypes.c_int64(1)))
ok(ice.ice_agent_new(spec, ctypes.byref(agent)))
ok(ice.ice_agent_run(agent, ctypes.byref(result)))
print("end", ice.ice_result_end(result), ice.ice_result_summary(result).decode().strip())
ice.ice_result_free(result)
ice.ice_agent_free(agent)
ice.ice_spec_free(spec)
