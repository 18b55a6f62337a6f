use std::sync::atomic::{AtomicU16, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A device with one holding register at 100 and none elsewhere.
async fn serve(mut client: TcpStream, register: Arc<AtomicU16>) {
    let mut request = [0; 12];
    while client.read_exact(&mut request).await.is_ok() {
        let (function, address) = (request[7], u16::from_be_bytes([request[8], request[9]]));
        let mut answer = request[..4].to_vec();
        if function == 3 && address == 100 {
            answer.extend_from_slice(&[0, 5, request[6], 3, 2]);
            answer.extend_from_slice(&register.load(Ordering::Relaxed).to_be_bytes());
        } else {
            // Illegal data address.
            answer.extend_from_slice(&[0, 3, request[6], function | 0x80, 2]);
        }
        if client.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn source(address: std::net::SocketAddr) -> String {
    format!(
        "[[source]]\nname = \"press-4\"\nstream = \"press\"\n\
         modbus = {{ address = \"{address}\", every = \"10ms\", timeout = \"2s\", values = [\n\
         {{ name = \"level\", register = \"holding:100\", scale = 0.5, unit = \"mm\", deadband = 1.0 }},\n\
         {{ name = \"hole\", register = \"input:7\" }} ] }}\n"
    )
}

#[tokio::test]
async fn changes_beyond_the_deadband_become_records_and_a_lost_device_shows_once() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let register = Arc::new(AtomicU16::new(10));
    let device = tokio::spawn({
        let register = Arc::clone(&register);
        async move { serve(listener.accept().await.unwrap().0, register).await }
    });
    let plant = Plant::start(folder.path(), spec(), &source(address)).await;
    let values = plant.values(2).await;
    let level = |value: f64| serde_json::json!({ "source": "press-4", "name": "level", "value": value, "unit": "mm", "quality": "good" });
    assert_eq!(values[0], level(5.0));
    assert_eq!(values[1]["name"], "hole");
    assert_eq!(
        (&values[1]["value"], &values[1]["quality"]),
        (&serde_json::Value::Null, &"bad".into())
    );
    let reason = values[1]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("the device refuses 1 registers from input:7"),
        "{reason}"
    );

    // 1.0 is not more than the deadband, 1.5 is.
    register.store(12, Ordering::Relaxed);
    register.store(13, Ordering::Relaxed);
    assert_eq!(plant.values(3).await[2], level(6.5));
    register.store(11, Ordering::Relaxed);

    // The device goes away for a while; nobody listens until it is back.
    device.abort();
    let _ = device.await;
    let values = plant.values(4).await;
    assert_eq!(
        (&values[3]["name"], &values[3]["quality"]),
        (&"level".into(), &"bad".into())
    );
    assert!(
        values[3]["reason"]
            .as_str()
            .unwrap()
            .contains("the connection to the device broke"),
        "{values:?}"
    );
    let health = plant.health(|health| !health.connected).await;
    assert!(health.reason.is_some() && health.errors > 0, "{health:?}");
    let again = TcpListener::bind(address).await.unwrap();
    let device =
        tokio::spawn(async move { serve(again.accept().await.unwrap().0, register).await });
    assert_eq!(plant.values(5).await[4], level(5.5));
    plant.health(|health| health.connected).await;
    plant.end().await;
    device.abort();
}
