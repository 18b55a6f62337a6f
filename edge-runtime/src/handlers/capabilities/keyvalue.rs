//! wasi:keyvalue over the node's buffer: each handler has its own values, and a
//! quota for them. What a batch changes is kept with its outputs or not at all.

#![expect(
    unreachable_pub,
    reason = "the generated bindings re-export the resources"
)]

use std::sync::Arc;

use bytes::Bytes;
use fleet_api::ids::Name;
use wasmtime::Result;
use wasmtime::component::{Linker, Resource};

use super::bindings::wasi::keyvalue::{atomics, batch, store};
use super::{Grant, Host};
use crate::handlers::state::GuestState;
use crate::keyvalue::{KeyValue, KeyValueError, Stage};

/// Keys on a page of `list-keys`.
const PAGE: usize = 1000;

/// A bucket that the guest has opened.
pub struct Bucket {
    grant: Arc<Grant>,
    values: KeyValue,
    quota: u64,
    name: String,
}

type Outcome<T> = Result<std::result::Result<T, store::Error>>;

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    store::add_to_linker::<_, Host>(linker, |state| state)?;
    atomics::add_to_linker::<_, Host>(linker, |state| state)?;
    batch::add_to_linker::<_, Host>(linker, |state| state)
}

impl From<KeyValueError> for store::Error {
    fn from(error: KeyValueError) -> Self {
        Self::Other(error.to_string())
    }
}

impl Bucket {
    fn get(
        &self,
        stage: Option<&Stage>,
        key: &str,
    ) -> std::result::Result<Option<Vec<u8>>, store::Error> {
        let value = match stage {
            Some(stage) => stage.get(&self.name, key)?,
            None => self.values.get(self.handler(), &self.name, key)?,
        };
        Ok(value.map(|value| value.to_vec()))
    }

    fn handler(&self) -> &str {
        self.grant.handler.as_str()
    }
}

impl GuestState {
    /// The bucket and, within a batch, what the batch has changed so far.
    fn bucket(&mut self, this: &Resource<Bucket>) -> Result<(&Bucket, Option<Arc<Stage>>)> {
        let stage = self.call.stage.clone();
        Ok((self.table().get(this)?, stage))
    }

    async fn write(
        &mut self,
        this: Resource<Bucket>,
        changes: Vec<(String, Option<Bytes>)>,
    ) -> Outcome<()> {
        let (bucket, stage) = self.bucket(&this)?;
        let (quota, name) = (bucket.quota, bucket.name.as_str());
        let written = match stage {
            Some(stage) => stage.write(quota, name, changes),
            None => {
                let values = &bucket.values;
                values.write(bucket.handler(), quota, name, changes).await
            }
        };
        Ok(written.map_err(Into::into))
    }
}

impl store::Host for GuestState {
    fn open(&mut self, identifier: String) -> Outcome<Resource<Bucket>> {
        if Name::new(identifier.as_str()).is_err() {
            return Ok(Err(store::Error::NoSuchStore));
        }
        let grant = Arc::clone(&self.grant);
        let Some(quota) = grant.allow.keyvalue else {
            self.denied(
                "wasi:keyvalue is not granted: give it a quota in the deployment's allow.keyvalue",
            );
            return Ok(Err(store::Error::AccessDenied));
        };
        let Some(values) = grant.keyvalue.clone() else {
            self.denied("this runtime keeps no values: start it with --data-dir");
            return Ok(Err(store::Error::AccessDenied));
        };
        let bucket = Bucket {
            grant,
            values,
            quota: quota.0,
            name: identifier,
        };
        Ok(Ok(self.table().push(bucket)?))
    }
}

impl store::HostBucket for GuestState {
    fn get(&mut self, this: Resource<Bucket>, key: String) -> Outcome<Option<Vec<u8>>> {
        let (bucket, stage) = self.bucket(&this)?;
        Ok(bucket.get(stage.as_deref(), &key))
    }

    async fn set(&mut self, this: Resource<Bucket>, key: String, value: Vec<u8>) -> Outcome<()> {
        self.write(this, vec![(key, Some(value.into()))]).await
    }

    async fn delete(&mut self, this: Resource<Bucket>, key: String) -> Outcome<()> {
        self.write(this, vec![(key, None)]).await
    }

    fn exists(&mut self, this: Resource<Bucket>, key: String) -> Outcome<bool> {
        let (bucket, stage) = self.bucket(&this)?;
        let value = bucket.get(stage.as_deref(), &key);
        Ok(value.map(|value| value.is_some()))
    }

    fn list_keys(
        &mut self,
        this: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> Outcome<store::KeyResponse> {
        let (bucket, stage) = self.bucket(&this)?;
        let from = cursor.unwrap_or(0);
        let page = match stage {
            Some(stage) => stage.keys(&bucket.name, from, PAGE),
            None => {
                let values = &bucket.values;
                values.keys(bucket.handler(), &bucket.name, from, PAGE)
            }
        };
        let page = page.map(|(keys, cursor)| store::KeyResponse { keys, cursor });
        Ok(page.map_err(Into::into))
    }

    fn drop(&mut self, this: Resource<Bucket>) -> Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}

impl atomics::Host for GuestState {
    async fn increment(&mut self, this: Resource<Bucket>, key: String, delta: u64) -> Outcome<u64> {
        let (bucket, stage) = self.bucket(&this)?;
        let (quota, name) = (bucket.quota, bucket.name.as_str());
        let sum = match stage {
            Some(stage) => stage.increment(quota, name, key, delta),
            None => {
                let values = &bucket.values;
                let sum = values.increment(bucket.handler(), quota, name, key, delta);
                sum.await
            }
        };
        Ok(sum.map_err(Into::into))
    }
}

impl batch::Host for GuestState {
    fn get_many(
        &mut self,
        this: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Outcome<Vec<Option<(String, Vec<u8>)>>> {
        let (bucket, stage) = self.bucket(&this)?;
        let values = keys.into_iter().map(|key| {
            let value = bucket.get(stage.as_deref(), &key)?;
            Ok(value.map(|value| (key, value)))
        });
        Ok(values.collect())
    }

    async fn set_many(
        &mut self,
        this: Resource<Bucket>,
        values: Vec<(String, Vec<u8>)>,
    ) -> Outcome<()> {
        let changes = values
            .into_iter()
            .map(|(key, value)| (key, Some(value.into())));
        self.write(this, changes.collect()).await
    }

    async fn delete_many(&mut self, this: Resource<Bucket>, keys: Vec<String>) -> Outcome<()> {
        let changes = keys.into_iter().map(|key| (key, None));
        self.write(this, changes.collect()).await
    }
}
