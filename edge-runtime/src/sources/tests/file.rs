use std::fs;
use std::io::Write as _;

use super::*;

fn append(path: &Path, text: &str) {
    let mut file = fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn source(path: &Path) -> String {
    format!(
        "[[source]]\nname = \"log\"\nstream = \"press\"\nfile = {{ path = {path:?}, format = \"csv\", every = \"10ms\" }}\n"
    )
}

/// The numbers in column `n` of all records.
async fn numbers(plant: &Plant, count: usize) -> Vec<u64> {
    let values = plant.values(count).await;
    values
        .iter()
        .map(|value| value["value"]["n"].as_u64().unwrap())
        .collect()
}

#[tokio::test]
async fn lines_are_records_once_over_rotation_truncation_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("press.csv");
    let plant = Plant::start(folder.path(), spec(), &source(&path)).await;
    let missing = |h: &SourceHealth| {
        h.reason
            .as_deref()
            .is_some_and(|r| r.contains("cannot open"))
    };
    plant.health(missing).await;
    append(&path, "n,note\n1,a\n2,half");
    assert_eq!(numbers(&plant, 1).await, [1]);
    append(&path, " a line\n3,\n");
    let values = plant.values(3).await;
    assert_eq!(
        values[1],
        serde_json::json!({ "source": "log", "value": { "n": 2, "note": "half a line" } })
    );
    assert_eq!(values[2]["value"]["note"], serde_json::Value::Null);

    // Rotated: what the old file still gets comes first, its half line too.
    fs::rename(&path, folder.path().join("press.csv.1")).unwrap();
    append(&folder.path().join("press.csv.1"), "4,late\n5,no end");
    append(&path, "note,n\nx,6\n");
    assert_eq!(numbers(&plant, 6).await, [1, 2, 3, 4, 5, 6]);

    // Truncated in place, and longer than before.
    fs::write(&path, "n,note\n7,written anew and longer than it was\n").unwrap();
    assert_eq!(numbers(&plant, 7).await.last(), Some(&7));

    // While it is away, the file goes on and is rotated.
    plant.end().await;
    append(&path, "8,\n");
    fs::rename(&path, folder.path().join("press.csv.2")).unwrap();
    append(&path, "n,note\n9,\n1,2,3\n10,\n");
    let plant = Plant::start(folder.path(), spec(), &source(&path)).await;
    assert_eq!(numbers(&plant, 10).await, (1..=10).collect::<Vec<_>>());
    let health = plant.health(|health| health.lost == 1).await;
    assert!(health.connected, "{health:?}");
    plant.end().await;
}
