// A host in Go: it runs workers as its flags say, and prints what became of them as one line of JSON.
// Meanwhile its goroutines, its collector and its signals go on: SIGUSR1 asks for proof.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"host/ice"
)

type worker struct {
	ice.Worker
	Value *string `json:"value"`
}

type report struct {
	End      ice.End  `json:"end"`
	Message  string   `json:"message"`
	Restarts int      `json:"restarts"`
	Workers  []worker `json:"workers"`
}

func main() {
	spec := ice.Spec{Method: ice.Spawn}
	flag.StringVar(&spec.Library, "library", "", "the shared object that has the functions")
	flag.StringVar(&spec.Function, "function", "", "the worker")
	flag.StringVar(&spec.WarmUp, "warm-up", "", "the warm-up of a fork server")
	flag.IntVar(&spec.Ranks, "ranks", 2, "how many workers")
	flag.IntVar(&spec.MaxRestarts, "max-restarts", 0, "how often they may start again")
	flag.StringVar(&spec.LogDir, "log-dir", "", "where the error files of workers go and stay")
	flag.StringVar(&spec.Signals, "signals", "", "signals that stop the run without a word to Go")
	argument := flag.String("argument", "", "what the function is given")
	method := flag.String("method", "spawn", "spawn or forkserver")
	flag.Parse()
	spec.Program = flag.Args()
	spec.Argument = []byte(*argument)
	if *method == "forkserver" {
		spec.Method = ice.Forkserver
	}

	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	asked := make(chan os.Signal, 16)
	signal.Notify(asked, syscall.SIGUSR1)
	go tick(asked)

	result, err := ice.Run(ctx, spec)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	r := report{End: result.End, Message: result.Message, Restarts: result.Restarts}
	for _, w := range result.Workers {
		all := worker{Worker: w}
		if w.Value != nil {
			value := string(w.Value)
			all.Value = &value
		}
		r.Workers = append(r.Workers, all)
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

// tick collects garbage over and over: each time the runtime stops every goroutine, by signals too.
// When asked it says how often it did.
func tick(asked <-chan os.Signal) {
	for ticks := 0; ; ticks++ {
		runtime.GC()
		select {
		case <-asked:
			fmt.Fprintln(os.Stderr, ticks)
		case <-time.After(time.Millisecond):
		}
	}
}
