use fleet_api::desired::Desired;
use fleet_api::ids::NodeId;

/// What the ledger knows that matters for a decision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LedgerView {
    /// The newest generation that was begun.
    pub(crate) newest: u64,
    /// The newest epoch that was seen.
    pub(crate) epoch: u64,
}

/// What to do with a desired state.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is known already, or older than what is known.
    Ignore,
    /// It must not be followed.
    Reject(String),
    /// It is new.
    Begin,
}

/// Decides over `desired`: only a strictly newer generation for this node is followed.
pub(crate) fn decide(node: &NodeId, ledger: &LedgerView, desired: &Desired) -> Decision {
    if desired.node != *node {
        return Decision::Reject(format!(
            "the desired state is for node {}, this is node {node}",
            desired.node
        ));
    }
    if desired.epoch < ledger.epoch {
        return Decision::Reject(format!(
            "the desired state comes from epoch {} of the control plane, epoch {} has been seen",
            desired.epoch, ledger.epoch
        ));
    }
    if desired.generation <= ledger.newest {
        return Decision::Ignore;
    }
    Decision::Begin
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn desired(node: &str, generation: u64, epoch: u64) -> Desired {
        Desired {
            v: 1,
            node: NodeId::new(node).expect("valid"),
            generation,
            epoch,
            handlers: Vec::new(),
            models: Vec::new(),
            streams: Vec::new(),
            sources: Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn a_node_never_goes_back(documents in prop::collection::vec((0_u64..20, 0_u64..4), 0..40)) {
            let node = NodeId::new("n1").expect("valid");
            let mut view = LedgerView::default();
            for (generation, epoch) in documents {
                if decide(&node, &view, &desired("n1", generation, epoch)) == Decision::Begin {
                    prop_assert!(generation > view.newest && epoch >= view.epoch);
                    view = LedgerView { newest: generation, epoch };
                }
            }
        }
    }

    #[test]
    fn refuses_what_is_for_another_node() {
        let node = NodeId::new("n1").expect("valid");
        let decision = decide(&node, &LedgerView::default(), &desired("n2", 1, 1));
        assert!(matches!(decision, Decision::Reject(_)));
    }
}
