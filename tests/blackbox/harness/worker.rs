//! Kinds of workers, for tests that hold for several.

/// How a function gets its process, and where it is: in the host or in `libverbs.so`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// A callback.
    Fork,
    Spawn,
    SpawnOfLibrary,
    Forkserver,
    ForkserverOfLibrary,
}

impl Way {
    pub const ALL: [Way; 5] =
        [Way::Fork, Way::Spawn, Way::SpawnOfLibrary, Way::Forkserver, Way::ForkserverOfLibrary];
    /// Those that execute something for it.
    pub const NEW: [Way; 4] = [Way::Spawn, Way::SpawnOfLibrary, Way::Forkserver, Way::ForkserverOfLibrary];
    pub const SPAWN: [Way; 2] = [Way::Spawn, Way::SpawnOfLibrary];
    pub const SERVER: [Way; 2] = [Way::Forkserver, Way::ForkserverOfLibrary];

    /// For the name of a test.
    pub fn name(self) -> &'static str {
        match self {
            Way::Fork => "fork",
            Way::Spawn => "spawn",
            Way::SpawnOfLibrary => "spawn_of_a_library",
            Way::Forkserver => "forkserver",
            Way::ForkserverOfLibrary => "forkserver_of_a_library",
        }
    }

    /// The `ice_start_method`.
    pub fn method(self) -> i32 {
        match self {
            Way::Fork => 0,
            Way::Spawn | Way::SpawnOfLibrary => 1,
            Way::Forkserver | Way::ForkserverOfLibrary => 2,
        }
    }

    pub fn has_server(self) -> bool {
        self.method() == 2
    }

    pub fn is_of_library(self) -> bool {
        matches!(self, Way::SpawnOfLibrary | Way::ForkserverOfLibrary)
    }
}

/// What a worker is: for what must hold whatever it is. `false` is the probe, `true` a callback.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Program,
    Function(Way),
}

impl Kind {
    pub const ALL: [Kind; 6] = [
        Kind::Program,
        Kind::Function(Way::Fork),
        Kind::Function(Way::Spawn),
        Kind::Function(Way::SpawnOfLibrary),
        Kind::Function(Way::Forkserver),
        Kind::Function(Way::ForkserverOfLibrary),
    ];
}

impl Kind {
    /// For the name of a test.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Program => "program",
            Kind::Function(way) => way.name(),
        }
    }
}

impl From<Way> for Kind {
    fn from(way: Way) -> Kind {
        Kind::Function(way)
    }
}

impl From<bool> for Kind {
    fn from(callback: bool) -> Kind {
        if callback { Kind::Function(Way::Fork) } else { Kind::Program }
    }
}

/// The same tests for each of these ways, with `_by_` and its name behind theirs; `name needs(a)` as above.
#[macro_export]
macro_rules! tests_by_way {
    ($ways:expr; $($name:ident $(needs($($need:ident),+))?),* $(,)?) => {{
        let mut trials = Vec::new();
        for way in $ways {
            $(trials.push($crate::harness::needing(
                &format!("{}_by_{}", stringify!($name), way.name()),
                &[$($(stringify!($need)),+)?],
                move || { $name(way); Ok(()) },
            ));)*
        }
        trials
    }};
}
