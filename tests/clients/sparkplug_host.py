"""A Sparkplug host on pysparkplug's decoder: prints each message of a group as a line of JSON.
A line "rebirth NODE" on standard input asks a node for its births.

Usage: sparkplug_host.py PORT GROUP
"""

import json
import sys
import time

import paho.mqtt.client as mqtt
import pysparkplug as spark

KINDS = {
    "NBIRTH": spark.NBirth,
    "NDEATH": spark.NDeath,
    "NDATA": spark.NData,
    "DBIRTH": spark.DBirth,
    "DDATA": spark.DData,
    "DDEATH": spark.DDeath,
}


def say(line):
    print(json.dumps(line), flush=True)


def told(client, _, message):
    topic = spark.Topic.from_str(message.topic)
    kind = message.topic.split("/")[2]
    if kind not in KINDS:
        return
    payload = KINDS[kind].decode(message.payload)
    line = {
        "kind": kind,
        "node": topic.edge_node_id,
        "device": topic.device_id,
        "retain": message.retain,
        "qos": message.qos,
    }
    if kind == "NDEATH":
        line |= {"seq": None, "metrics": {"bdSeq": payload.bd_seq_metric.value}}
    else:
        line["seq"] = payload.seq
        line["metrics"] = {metric.name: metric.value for metric in payload.metrics}
        line["types"] = {metric.name: metric.datatype.name for metric in payload.metrics}
        line["historical"] = any(metric.is_historical for metric in payload.metrics)
    say(line)


def main():
    port, group = int(sys.argv[1]), sys.argv[2]
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
    client.reconnect_delay_set(min_delay=1, max_delay=1)
    client.on_connect = lambda client, *_: client.subscribe(f"spBv1.0/{group}/#", qos=1)
    client.on_subscribe = lambda *_: say({"kind": "ready"})
    client.on_message = told
    client.connect("127.0.0.1", port)
    client.loop_start()
    for line in sys.stdin:
        _, node = line.split()
        metric = spark.Metric(
            timestamp=int(time.time() * 1000),
            name="Node Control/Rebirth",
            datatype=spark.DataType.BOOLEAN,
            value=True,
        )
        command = spark.NCmd(timestamp=metric.timestamp, metrics=(metric,))
        client.publish(f"spBv1.0/{group}/NCMD/{node}", command.encode(), qos=1)


main()
