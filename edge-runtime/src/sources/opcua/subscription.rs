use std::time::Duration;

use fleet_api::source::{Namespace, NodeName, OpcuaSource};
use opcua::client::services::{
    CreateMonitoredItems, CreateSubscription, Publish, Republish, TransferSubscriptions,
};
use opcua::client::{Session, UARequest as _};
use opcua::types::{
    AttributeId, DataChangeNotification, DateTime, Error, MonitoredItemCreateRequest,
    MonitoringMode, MonitoringParameters, NodeId, NotificationMessage, ReadValueId,
    StatusChangeNotification, TimestampsToReturn, VariableId, Variant,
};
use sha2::{Digest as _, Sha256};

use super::{Context, Found, OpcuaError, Position};

/// How long the server is to be silent at most.
const QUIET: Duration = Duration::from_secs(5);

/// How long the server is to keep the subscription while nobody asks for messages.
const KEPT: Duration = Duration::from_secs(3_600);

/// Changes of a value that the server is to keep between two messages.
const QUEUE: u32 = 1_000;

/// Items of one request: servers bound it.
const ITEMS: usize = 500;

const NODES_CHANGED: &str =
    "the source's nodes or settings have changed; changes until here are not known";
const SERVER_RESTARTED: &str = "the server was restarted; changes until here are not known";
const NOT_KEPT: &str = "the server did not keep the subscription; changes until here are not known";

/// A subscription at the server.
pub(super) struct Subscription {
    position: Position,
    nodes: Vec<NodeId>,
    refused: Vec<Found>,
    why_new: Option<&'static str>,
    acknowledge: Option<u32>,
    timeout: Duration,
}

impl Subscription {
    /// Goes on with the subscription of `position`, with the messages that were not
    /// acknowledged, newest first; makes a new one if the server has it no more.
    pub(super) async fn resume_or_create(
        context: &Context,
        opcua: &OpcuaSource,
        position: Option<Position>,
        session: &Session,
    ) -> Result<(Self, Vec<NotificationMessage>), OpcuaError> {
        let nodes = nodes(opcua, session).await?;
        let server = server_start(session).await?;
        let wanted = digest(opcua, &nodes);
        let why_new = match &position {
            Some(position) if position.wanted != wanted => NODES_CHANGED,
            Some(position) if position.server.is_some_and(|of| of != server) => SERVER_RESTARTED,
            _ => NOT_KEPT,
        };
        if let Some(position) = position
            && position.server == Some(server)
            && position.wanted == wanted
        {
            let resumed = Self {
                position,
                nodes: nodes.clone(),
                refused: Vec::new(),
                why_new: None,
                acknowledge: None,
                timeout: opcua.timeout.duration(),
            };
            if let Some(resumed) = resumed.resume(context, session).await? {
                return Ok(resumed);
            }
        }
        let mut created = Self::create(opcua, nodes, server, wanted, session).await?;
        created.why_new = Some(why_new);
        for found in &created.refused {
            let node = &opcua.nodes[found.at].node;
            let reason = found.reason.as_deref().unwrap_or_default();
            context
                .intake
                .report
                .error(&format!("node {node}: {reason}"));
        }
        Ok((created, Vec::new()))
    }

    async fn resume(
        mut self,
        context: &Context,
        session: &Session,
    ) -> Result<Option<(Self, Vec<NotificationMessage>)>, OpcuaError> {
        let id = self.position.subscription;
        let transfer = TransferSubscriptions::new(session).subscription(id);
        let results = match transfer.send(session.channel()).await {
            Ok(response) => response.results.unwrap_or_default(),
            // Not every server can hand a subscription over.
            Err(error) => {
                let source = context.name();
                tracing::info!(source, %error, "the server does not hand the subscription over");
                return Ok(None);
            }
        };
        let Some(result) = results.into_iter().next() else {
            return Ok(None);
        };
        if result.status_code.is_bad() {
            return Ok(None);
        }
        let mut unheard = Vec::new();
        let kept = result.available_sequence_numbers.unwrap_or_default();
        for sequence in kept.into_iter().rev() {
            if sequence <= self.position.sequence {
                // Durable, but its acknowledgement did not arrive.
                self.acknowledge = Some(sequence);
                continue;
            }
            let again = Republish::new(id, sequence, session).send(session.channel());
            let again = again.await.map_err(refused("send a message again"))?;
            unheard.push(again.notification_message);
        }
        Ok(Some((self, unheard)))
    }

    async fn create(
        opcua: &OpcuaSource,
        nodes: Vec<NodeId>,
        server: i64,
        wanted: String,
        session: &Session,
    ) -> Result<Self, OpcuaError> {
        let every = opcua.every.duration();
        let turns = |span: Duration| {
            u32::try_from(span.as_millis() / every.as_millis().max(1)).unwrap_or(u32::MAX)
        };
        let keep_alive = turns(QUIET).max(1);
        let made = CreateSubscription::new(session)
            .publishing_interval(every)
            .max_keep_alive_count(keep_alive)
            .max_lifetime_count(turns(KEPT).max(keep_alive.saturating_mul(3)))
            .send(session.channel())
            .await
            .map_err(refused("make a subscription"))?;
        let quiet = made.revised_publishing_interval * f64::from(made.revised_max_keep_alive_count);
        let mut created = Self {
            position: Position {
                server: Some(server),
                wanted,
                subscription: made.subscription_id,
                sequence: 0,
                // As a cast saturates; a server that says nonsense is asked after an hour.
                quiet_ms: quiet.clamp(0.0, 3_600_000.0) as u64,
            },
            nodes,
            refused: Vec::new(),
            why_new: None,
            acknowledge: None,
            timeout: opcua.timeout.duration(),
        };
        created.monitor(opcua, session).await?;
        Ok(created)
    }

    async fn monitor(&mut self, opcua: &OpcuaSource, session: &Session) -> Result<(), OpcuaError> {
        let sampling = opcua.every.ms() as f64;
        for (part, nodes) in self.nodes.chunks(ITEMS).enumerate() {
            let first = part * ITEMS;
            let items = nodes.iter().enumerate().map(|(i, node)| {
                let parameters = MonitoringParameters {
                    client_handle: handle(first + i),
                    sampling_interval: sampling,
                    queue_size: QUEUE,
                    discard_oldest: true,
                    ..Default::default()
                };
                MonitoredItemCreateRequest {
                    item_to_monitor: value_of(node),
                    monitoring_mode: MonitoringMode::Reporting,
                    requested_parameters: parameters,
                }
            });
            let made = CreateMonitoredItems::new(self.position.subscription, session)
                .timestamps_to_return(TimestampsToReturn::Both)
                .items_to_create(items.collect())
                .send(session.channel())
                .await
                .map_err(refused("monitor the nodes"))?;
            for (i, item) in made.results.iter().enumerate() {
                if item.result.status_code.is_bad() {
                    let reason = item.result.status_code.to_string();
                    self.refused.push(Found::bad(first + i, &reason));
                }
            }
        }
        Ok(())
    }

    /// Why the server starts anew, with the values of this moment; none if it goes on.
    pub(super) fn why_new(&self) -> Option<&'static str> {
        self.why_new
    }

    /// Values that the server does not monitor.
    pub(super) fn refused(&mut self) -> Vec<Found> {
        std::mem::take(&mut self.refused)
    }

    /// The server's next message; without changes if it only shows that it is there.
    pub(super) async fn next(
        &mut self,
        session: &Session,
    ) -> Result<NotificationMessage, OpcuaError> {
        let id = self.position.subscription;
        let quiet = Duration::from_millis(self.position.quiet_ms);
        let mut publish = Publish::new(session).timeout(quiet * 2 + self.timeout);
        if let Some(sequence) = self.acknowledge {
            publish = publish.ack(id, sequence);
        }
        loop {
            let answer = publish.clone().send(session.channel()).await;
            let answer = answer.map_err(refused("go on with the subscription"))?;
            self.acknowledge = None;
            // One for another subscription of the session, which it does not have.
            if answer.subscription_id == id {
                return Ok(answer.notification_message);
            }
        }
    }

    /// The position once `message` is durable.
    pub(super) fn position_after(&self, message: &NotificationMessage) -> Position {
        let mut position = self.position.clone();
        if carries(message) {
            position.sequence = message.sequence_number;
        }
        position
    }

    /// Lets the server forget `message`, with the next request.
    pub(super) fn acknowledge(&mut self, message: &NotificationMessage) {
        // A message without changes has the number of the next one that has some.
        if carries(message) {
            self.position.sequence = message.sequence_number;
            self.acknowledge = Some(message.sequence_number);
        }
    }

    /// The values at the places `which` as they are now.
    pub(super) async fn read_now(
        &self,
        session: &Session,
        which: Vec<usize>,
    ) -> Result<Vec<Found>, OpcuaError> {
        let mut found = Vec::new();
        for which in which.chunks(ITEMS) {
            let nodes: Vec<_> = which.iter().map(|&at| value_of(&self.nodes[at])).collect();
            let values = session.read(&nodes, TimestampsToReturn::Both, 0.0).await;
            let values = values.map_err(refused("read values"))?;
            let values = which.iter().zip(&values);
            found.extend(values.map(|(&at, value)| Found::of(at, value)));
        }
        Ok(found)
    }
}

/// What a message tells of the nodes.
pub(super) fn read(
    message: &NotificationMessage,
    opcua: &OpcuaSource,
) -> Result<Vec<Found>, OpcuaError> {
    let mut found = Vec::new();
    for data in message.notification_data.iter().flatten() {
        if let Some(changes) = data.inner_as::<DataChangeNotification>() {
            for item in changes.monitored_items.iter().flatten() {
                let at = place(item.client_handle);
                if at.is_some_and(|at| at < opcua.nodes.len()) {
                    found.extend(at.map(|at| Found::of(at, &item.value)));
                }
            }
        } else if let Some(change) = data.inner_as::<StatusChangeNotification>() {
            return Err(OpcuaError::Ended(change.status));
        }
    }
    Ok(found)
}

fn carries(message: &NotificationMessage) -> bool {
    message
        .notification_data
        .as_ref()
        .is_some_and(|data| !data.is_empty())
}

/// Handles begin at 1: the client takes 0 for none.
fn handle(place: usize) -> u32 {
    u32::try_from(place + 1).unwrap_or(u32::MAX)
}

fn place(handle: u32) -> Option<usize> {
    usize::try_from(handle).ok()?.checked_sub(1)
}

fn value_of(node: &NodeId) -> ReadValueId {
    ReadValueId {
        node_id: node.clone(),
        attribute_id: AttributeId::Value as u32,
        ..Default::default()
    }
}

/// The nodes as this server numbers them.
async fn nodes(opcua: &OpcuaSource, session: &Session) -> Result<Vec<NodeId>, OpcuaError> {
    let by_uri = |node: &NodeName| matches!(node.namespace, Namespace::Uri(_));
    let namespaces = if opcua.nodes.iter().any(|node| by_uri(&node.node)) {
        let read = session.read_namespace_array().await;
        Some(read.map_err(refused("tell its namespaces"))?)
    } else {
        None
    };
    let nodes = opcua.nodes.iter().map(|node| {
        let index = match &node.node.namespace {
            Namespace::Index(index) => *index,
            Namespace::Uri(uri) => namespaces
                .as_ref()
                .and_then(|namespaces| namespaces.get_index(uri))
                .ok_or_else(|| OpcuaError::Namespace(uri.clone()))?,
        };
        let name = format!("ns={index};{}", node.node.identifier);
        name.parse().map_err(|status| OpcuaError::Refused {
            what: "know a node",
            source: Error::new(status, name),
        })
    });
    nodes.collect()
}

/// When the server was started, in ticks.
async fn server_start(session: &Session) -> Result<i64, OpcuaError> {
    let node: NodeId = VariableId::Server_ServerStatus_StartTime.into();
    let read = session
        .read(&[value_of(&node)], TimestampsToReturn::Neither, 0.0)
        .await
        .map_err(refused("tell when it was started"))?;
    let start = read.into_iter().next().and_then(|value| value.value);
    Ok(match start {
        Some(Variant::DateTime(time)) => time.ticks(),
        _ => DateTime::null().ticks(),
    })
}

/// What is subscribed and how, so that a changed source is subscribed anew.
fn digest(opcua: &OpcuaSource, nodes: &[NodeId]) -> String {
    let mut text = format!("{} {:?}", opcua.endpoint, opcua.every);
    for (node, wanted) in nodes.iter().zip(&opcua.nodes) {
        text.push_str(&format!("\n{node} {}", wanted.name));
    }
    Sha256::digest(text)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn refused(what: &'static str) -> impl Fn(Error) -> OpcuaError {
    move |source| OpcuaError::Refused { what, source }
}
