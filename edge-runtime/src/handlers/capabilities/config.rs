//! wasi:config: the values that the deployment gives the handler.

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
        Ok(Ok(self.grant.config.get(&key).cloned()))
    }

    fn get_all(&mut self) -> Result<Result<Vec<(String, String)>, store::Error>> {
        let all = self.grant.config.iter();
        Ok(Ok(all.map(|(k, v)| (k.clone(), v.clone())).collect()))
    }
}
