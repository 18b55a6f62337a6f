#![no_main]

use fleet_api::deployment::{Deployment, Route};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(deployment) = Deployment::from_toml(text, "fuzzed.toml") {
        for route in deployment.handlers.iter().filter_map(|h| h.route.as_ref()) {
            assert_eq!(route.to_string().parse().as_ref(), Ok::<&Route, _>(route));
        }
    }
});
