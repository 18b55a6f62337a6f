"""Receives device data from a broker: prints each record once as a line of JSON and
acknowledges it, so that the node frees it.

    pip install paho-mqtt
    python receive.py --host broker.example --port 8883 --ca ca.pem --cert me.pem --key me.key

Standard output has to be somewhere safe before a record is acknowledged: here, each line is
written and flushed, and with --file also synced to the disk, and read back at the next start.
"""

import argparse
import base64
import json
import os
import sys

import paho.mqtt.client as mqtt

from frames import FrameError, Gap, Hole, Receiver, decode


class Consumer:
    """All streams of all nodes whose topics the broker lets us read."""

    def __init__(self, out, limit):
        self.out = out
        self.left = limit
        self.last = None
        self.receivers = {}

    def restore(self, lines):
        """What an earlier run has written is not written again."""
        for line in map(json.loads, lines):
            receiver = self.receivers.setdefault((line["node"], line["stream"]), Receiver())
            receiver.restore(line["epoch"], line.get("last", line.get("sequence")))

    def message(self, client, _, message):
        # edge/v1/<node>/streams/<stream>
        root, version, node, _, stream = message.topic.split("/")
        try:
            frame = decode(stream, message.payload)
            receiver = self.receivers.setdefault((node, stream), Receiver())
            new = receiver.take(frame)
        except FrameError as error:
            print(f"{node} {stream}: dropped a frame: {error}", file=sys.stderr)
            return
        except Hole as hole:
            print(f"{node} {stream}: {hole}", file=sys.stderr)
            return
        for item in new:
            self.write(node, stream, frame.epoch, item)
        self.out.flush()
        if self.out is not sys.stdout:
            os.fsync(self.out.fileno())
        # Repeated also when nothing was new: the node did not hear the last one.
        sent = client.publish(f"{message.topic}/ack", receiver.watermark(), qos=1, retain=True)
        if self.left is not None:
            self.left -= sum(not isinstance(item, Gap) for item in new)
            if self.left <= 0:
                self.last = sent.mid

    def published(self, client, _, mid, *__):
        """Ends when the broker has the last acknowledgement."""
        if mid == self.last:
            client.disconnect()

    def write(self, node, stream, epoch, item):
        line = {"node": node, "stream": stream, "epoch": epoch}
        if isinstance(item, Gap):
            line |= {"first": item.first, "last": item.last, "gap": item.reason, "lost": item.lost}
        elif item.encoding == "json":
            line |= {"sequence": item.sequence, "time_ms": item.time_ms, "value": item.json()}
        else:
            value = base64.b64encode(item.value).decode()
            line |= {"sequence": item.sequence, "time_ms": item.time_ms, item.encoding: value}
        print(json.dumps(line), file=self.out)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--host", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=8883)
    arguments.add_argument("--node", default="+", help="one node only")
    arguments.add_argument("--stream", default="+", help="one stream only")
    arguments.add_argument("--ca", help="certificate of the broker's CA; without it, no TLS")
    arguments.add_argument("--cert", help="own certificate")
    arguments.add_argument("--key", help="its key")
    arguments.add_argument("--file", help="append here instead of printing")
    arguments.add_argument("--limit", type=int, help="end after this many records")
    arguments = arguments.parse_args()
    out = open(arguments.file, "a+") if arguments.file else sys.stdout
    consumer = Consumer(out, arguments.limit)
    if arguments.file:
        out.seek(0)
        whole = [line for line in out.readlines() if line.endswith("\n")]
        # A line that a crash has cut off was not acknowledged.
        out.seek(sum(len(line.encode()) for line in whole))
        out.truncate()
        consumer.restore(whole)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    if arguments.ca:
        client.tls_set(arguments.ca, arguments.cert, arguments.key)
    topic = f"edge/v1/{arguments.node}/streams/{arguments.stream}"
    # After every connection: nothing relies on what the broker remembers of us.
    client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
    client.on_message = consumer.message
    client.on_publish = consumer.published
    client.connect(arguments.host, arguments.port)
    client.loop_forever()


if __name__ == "__main__":
    main()
