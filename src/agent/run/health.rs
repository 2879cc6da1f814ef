//! The health check of a run: nobody's run fails for want of it.

use std::net::SocketAddr;

use super::context::Context;
use super::watchers::Watchers;
use crate::agent::health::{About, Health, HealthEndpoint};
use crate::process::watcher::Name;
use crate::spec::Level;

pub fn start(context: &Context, watchers: &Watchers) -> Option<Health> {
    let mut places = Vec::new();
    if let Some(port) = context.spec.health_port.or_else(|| port_of_environment(context)) {
        match HealthEndpoint::port(SocketAddr::new(context.spec.health_address, port)) {
            Ok((place, port)) => {
                context.log(Level::Info, || format!("the health port is {port}"));
                places.push(place);
            }
            Err(error) => context.log(Level::Warning, || format!("no health port: {error}")),
        }
    }
    if let Some(path) = &context.spec.health_socket {
        let path = context.working_dir().join(path);
        match HealthEndpoint::socket(path.clone()) {
            Ok(place) => {
                watchers.name(context, Name::HealthSocket, Some(&path));
                places.push(place);
            }
            Err(error) => context.log(Level::Warning, || format!("no health socket: {error}")),
        }
    }
    if places.is_empty() {
        return None;
    }
    let about = About {
        limit: context.spec.health_timeout,
        run_id: context.run_id.clone(),
        role: context.spec.role.clone(),
        descriptors: context.spec.descriptors(),
    };
    let health = Health::start(places, about, context.inbox.clone(), context.shared.clone());
    health.map_err(|error| context.log(Level::Warning, || format!("no health check: {error}"))).ok()
}

fn port_of_environment(context: &Context) -> Option<u16> {
    let text = String::from_utf8_lossy(context.host.health_port.as_ref()?);
    let port = text.trim().parse().ok();
    if port.is_none() {
        context.log(Level::Warning, || {
            format!("no health port: TORCHELASTIC_HEALTH_CHECK_PORT is {text:?}, must be 0 to 65535")
        });
    }
    port
}
