use fleet_api::source::{ModbusValue, RegisterKind};

/// The most that one request may ask for (Modbus application protocol 1.1b3, 6.1 and 6.3).
const MOST_BITS: u16 = 2_000;
const MOST_WORDS: u16 = 125;

/// Registers that are read with one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub kind: RegisterKind,
    pub start: u16,
    pub count: u16,
    /// Which values lie in it.
    pub values: Vec<usize>,
}

/// Groups values into as few requests as there are runs of registers without a
/// hole: a device may refuse a request that touches a register it does not have.
pub(super) fn blocks(values: &[ModbusValue]) -> Vec<Block> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|&i| values[i].register);
    let mut blocks: Vec<Block> = Vec::new();
    for i in order {
        let (register, size) = (values[i].register, values[i].kind().registers());
        let most = if register.kind.is_bit() {
            MOST_BITS
        } else {
            MOST_WORDS
        };
        if let Some(last) = blocks.last_mut().filter(|last| last.kind == register.kind) {
            let end = u32::from(last.start) + u32::from(last.count);
            let offset = register.address - last.start;
            let count = last.count.max(offset.saturating_add(size));
            if u32::from(register.address) <= end && count <= most {
                last.count = count;
                last.values.push(i);
                continue;
            }
        }
        blocks.push(Block {
            kind: register.kind,
            start: register.address,
            count: size,
            values: vec![i],
        });
    }
    blocks
}

#[cfg(test)]
mod tests {
    use fleet_api::source::SourcesFile;

    use super::*;

    fn values(registers: &[(&str, &str)]) -> Vec<ModbusValue> {
        let values: Vec<_> = registers
            .iter()
            .map(|(register, kind)| {
                format!("{{ name = \"{register}\", register = \"{register}\", type = \"{kind}\" }}")
            })
            .collect();
        let toml = format!(
            "[[source]]\nname = \"a\"\nstream = \"a\"\nmodbus = {{ address = \"a:1\", values = [{}] }}",
            values.join(", ")
        );
        let file = SourcesFile::from_toml(&toml, "test").unwrap();
        file.sources[0].modbus.as_ref().unwrap().values.clone()
    }

    fn requests(registers: &[(&str, &str)]) -> Vec<(RegisterKind, u16, u16, usize)> {
        let all = blocks(&values(registers));
        let request = |b: &Block| (b.kind, b.start, b.count, b.values.len());
        all.iter().map(request).collect()
    }

    #[test]
    fn neighbours_share_a_request_and_holes_do_not() {
        use RegisterKind::{Coil, Holding, Input};
        let registers = [
            ("holding:102", "u16"),
            ("holding:100", "f32"),
            ("holding:104", "u16"),
            ("input:103", "u16"),
            ("coil:7", "bool"),
            ("coil:8", "bool"),
        ];
        assert_eq!(
            requests(&registers),
            [
                (Coil, 7, 2, 2),
                (Holding, 100, 3, 2),
                (Holding, 104, 1, 1),
                (Input, 103, 1, 1),
            ]
        );
    }

    #[test]
    fn a_request_asks_for_no_more_than_the_protocol_allows() {
        let names: Vec<_> = (0..200).map(|n| format!("holding:{n}")).collect();
        let registers: Vec<_> = names.iter().map(|name| (name.as_str(), "u16")).collect();
        let counts: Vec<_> = requests(&registers).iter().map(|r| r.2).collect();
        assert_eq!(counts, [125, 75]);
        let last = [("holding:65534", "u32"), ("holding:65535", "u16")];
        assert_eq!(requests(&last)[0].2, 2);
    }
}
