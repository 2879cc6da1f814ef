//! Tests of the library as its users see it: through the C ABI and the command line tool.
//!
//! Names carry the ids of the behaviours they check, see `docs/behaviours.md`. `cargo test --test blackbox -- sp_01` runs
//! one of them.

// Each area uses a part of what the harness and the numbers of the header offer.
#[allow(dead_code)]
mod harness;

mod abi;
mod agent_store;
mod ask;
mod bar;
mod catalogue;
mod cfg;
mod chaos;
mod cli;
mod contain;
mod control;
mod crash;
mod crowd;
mod dev;
mod dev_plan;
mod dynamic;
mod e2e;
mod env;
mod err;
mod etcd;
mod everyone;
mod examples;
mod fault;
mod func;
mod health;
mod hosts;
mod injected;
mod job;
mod kill;
mod killed;
mod limits;
mod log;
mod method;
mod mon;
mod mpi;
mod net;
mod nodes;
mod numa;
mod obs;
mod options;
mod place;
mod proxy;
mod rank;
mod reap;
mod relay;
mod rst;
mod sandbox;
mod scheduler;
mod sec;
mod secret;
mod section;
mod server;
mod shown;
mod sig;
mod sp;
mod stat;
mod still;
mod store;
mod strange;
mod suspend;
mod terminal;
mod time;
// Each area uses a part of it.
#[allow(dead_code)]
mod tool;
mod torch;
mod torchrun;
mod vanish;
mod wait;
mod warning;

use std::process::ExitCode;

use libtest_mimic::Arguments;

/// Most of the time a test waits: for a process, a time-out, a deadline.
const TESTS_PER_CORE: usize = 4;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(TESTS_PER_CORE * cores);
    if !arguments.list {
        harness::build();
    }
    // A shell without job control, or nohup, has what it starts ignore these; so would all that the tests start.
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: SIG_DFL needs nothing, and no test runs yet.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // What is wrong, next to the name of the test and without a page of frames, which say nothing here.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let areas = [
        catalogue::tests(),
        cfg::tests(),
        sp::tests(),
        func::tests(),
        sec::tests(),
        crowd::tests(),
        secret::tests(),
        shown::tests(),
        crash::tests(),
        method::tests(),
        server::tests(),
        env::tests(),
        dev_plan::tests(),
        mon::tests(),
        mpi::tests(),
        numa::tests(),
        obs::tests(),
        options::tests(),
        job::tests(),
        health::tests(),
        rst::tests(),
        sandbox::tests(),
        scheduler::tests(),
        kill::tests(),
        killed::tests(),
        injected::tests(),
        contain::tests(),
        sig::tests(),
        everyone::tests(),
        warning::tests(),
        suspend::tests(),
        reap::tests(),
        time::tests(),
        limits::tests(),
        log::tests(),
        relay::tests(),
        err::tests(),
        strange::tests(),
        vanish::tests(),
        abi::tests(),
        cli::tests(),
        torchrun::tests(),
        control::tests(),
        section::tests(),
        still::tests(),
        ask::tests(),
        terminal::tests(),
        dev::tests(),
        store::tests(),
        agent_store::tests(),
        place::tests(),
        etcd::tests(),
        rank::tests(),
        bar::tests(),
        stat::tests(),
        dynamic::tests(),
        e2e::tests(),
        chaos::tests(),
        net::tests(),
        torch::tests(),
        examples::tests(),
        hosts::tests(),
        wait::tests(),
        fault::tests(),
    ];
    libtest_mimic::run(&arguments, areas.into_iter().flatten().collect()).exit_code()
}
