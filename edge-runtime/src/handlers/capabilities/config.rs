//! wasi:config: the values that the deployment gives the handler, and its
//! secrets. A secret is given for its key alone and is not in the list of all
//! values, which a handler may print.

use wasmtime::Result;
use wasmtime::component::Linker;

use super::Host;
use super::bindings::wasi::config::store;
use crate::handlers::state::GuestState;

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    store::add_to_linker::<_, Host>(linker, |state| state)
}

impl store::Host for GuestState {
    fn get(&mut self, key: String) -> Result<Result<Option<String>, store::Error>> {
        match self.grant.secrets.value(&key) {
            Some(secret) => Ok(secret.map(Some).map_err(|error| {
                let reason = format!("secret {key:?} cannot be read: {error}");
                self.denied(&reason);
                store::Error::Io(reason)
            })),
            None => Ok(Ok(self.grant.config.get(&key).cloned())),
        }
    }

    fn get_all(&mut self) -> Result<Result<Vec<(String, String)>, store::Error>> {
        let all = self.grant.config.iter();
        Ok(Ok(all.map(|(k, v)| (k.clone(), v.clone())).collect()))
    }
}
