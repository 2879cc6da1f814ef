// Package ice runs groups of workers with libice: as much of a binding as one program needs.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
package ice

/*
#cgo LDFLAGS: -lice
#include <stdlib.h>
#include "ice.h"
*/
import "C"

import (
	"context"
	"errors"
	"runtime"
	"unsafe"
)

// Method says how functions of shared objects start.
type Method int

const (
	Spawn      Method = C.ICE_START_SPAWN
	Forkserver Method = C.ICE_START_FORKSERVER
)

// End is the class of a run's end.
type End int

const (
	Succeeded     End = C.ICE_END_SUCCEEDED
	WorkerFailure End = C.ICE_END_WORKER_FAILURE
	StartError    End = C.ICE_END_START_ERROR
	Interrupted   End = C.ICE_END_INTERRUPTED
)

// Spec says what to run: a program with arguments, or a function of a shared object.
type Spec struct {
	Program     []string
	Library     string
	Function    string
	WarmUp      string
	Argument    []byte
	Method      Method
	Ranks       int
	MaxRestarts int
	LogDir      string // where the error files of workers go and stay
	Signals     string // those that stop the run; for its time libice handles them, not Go
}

// Worker is what became of one of them.
type Worker struct {
	Rank     int    `json:"rank"`
	ExitCode int    `json:"exit_code"`
	Signal   int    `json:"signal"`
	Message  string `json:"message"`
	Value    []byte `json:"-"` // nil: it returned none
}

// Result is how a run ended.
type Result struct {
	End      End
	Message  string
	Restarts int
	Workers  []Worker
}

// Run runs the workers until they are done, or until the context is: they are stopped then.
func Run(ctx context.Context, spec Spec) (Result, error) {
	agent, err := newAgent(spec)
	if err != nil {
		return Result{}, err
	}
	defer C.ice_agent_free(agent)
	if err := check(func() C.ice_status { return C.ice_agent_start(agent) }); err != nil {
		return Result{}, err
	}

	// A call into C keeps one thread busy, and no goroutine but its own.
	var result *C.ice_result
	over := make(chan error, 1)
	go func() {
		over <- check(func() C.ice_status { return C.ice_agent_wait(agent, -1, &result) })
	}()
	select {
	case err = <-over:
	case <-ctx.Done():
		C.ice_agent_stop(agent, 0)
		err = <-over
	}
	if err != nil {
		return Result{}, err
	}
	defer C.ice_result_free(result)
	return taken(result), nil
}

func newAgent(spec Spec) (agent *C.ice_agent, err error) {
	var s *C.ice_spec
	if err := check(func() C.ice_status { return C.ice_spec_new(&s) }); err != nil {
		return nil, err
	}
	defer C.ice_spec_free(s)
	var texts []unsafe.Pointer
	text := func(value string) *C.char {
		copied := C.CString(value)
		texts = append(texts, unsafe.Pointer(copied))
		return copied
	}
	defer func() {
		for _, copied := range texts {
			C.free(copied)
		}
	}()

	// What one of these refuses ice_agent_new repeats.
	C.ice_spec_set_local_world_size(s, C.int64_t(spec.Ranks))
	C.ice_spec_set_max_restarts(s, C.int64_t(spec.MaxRestarts))
	if len(spec.Program) > 0 {
		C.ice_spec_set_program(s, text(spec.Program[0]))
		for _, argument := range spec.Program[1:] {
			C.ice_spec_add_arg(s, text(argument))
		}
	}
	if spec.Function != "" {
		C.ice_spec_set_function(s, text(spec.Library), text(spec.Function))
		C.ice_spec_set_start_method(s, C.int32_t(spec.Method))
	}
	if spec.LogDir != "" {
		C.ice_spec_set_log_dir(s, text(spec.LogDir))
	}
	if spec.Signals != "" {
		C.ice_spec_set_signals(s, text(spec.Signals))
	}
	if spec.WarmUp != "" {
		C.ice_spec_set_warm_up(s, text(spec.WarmUp))
	}
	if len(spec.Argument) > 0 {
		C.ice_spec_set_argument(s, unsafe.Pointer(&spec.Argument[0]), C.size_t(len(spec.Argument)))
	}
	err = check(func() C.ice_status { return C.ice_agent_new(s, &agent) })
	return agent, err
}

// taken copies a result into Go's memory.
func taken(result *C.ice_result) Result {
	r := Result{
		End:      End(C.ice_result_end(result)),
		Message:  C.GoString(C.ice_result_message(result)),
		Restarts: int(C.ice_result_restarts(result)),
	}
	for i := C.size_t(0); i < C.ice_result_worker_count(result); i++ {
		w := C.ice_result_worker(result, i)
		worker := Worker{
			Rank:     int(w.global_rank),
			ExitCode: int(w.exit_code),
			Signal:   int(w.signal),
			Message:  C.GoString(w.message),
		}
		if w.has_value != 0 {
			worker.Value = append([]byte{}, unsafe.Slice((*byte)(w.value), w.value_size)...)
		}
		r.Workers = append(r.Workers, worker)
	}
	return r
}

// check makes a call, and an error of its message, which is the thread's.
func check(call func() C.ice_status) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if call() != C.ICE_OK {
		return errors.New(C.GoString(C.ice_last_error_message()))
	}
	return nil
}
