"""aiokafka against a server: `aiokafka_client.py host:port [check]`."""

import asyncio
import sys

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from checks import check, run, unique

SERVER = sys.argv[1]


async def make_topic(partitions=1):
    name = unique("aio")
    admin = AIOKafkaAdminClient(bootstrap_servers=SERVER)
    await admin.start()
    await admin.create_topics([NewTopic(name, partitions, 1)])
    await admin.close()
    return name


async def read(count, *topics, **options):
    reader = AIOKafkaConsumer(*topics, bootstrap_servers=SERVER, auto_offset_reset="earliest", **options)
    await reader.start()
    try:
        return [await asyncio.wait_for(reader.getone(), 30) for _ in range(count)]
    finally:
        await reader.stop()


@check
def produce_and_consume():
    async def go():
        topic = await make_topic()
        for options in [{}, {"enable_idempotence": True}, {"acks": 1, "compression_type": "gzip"}]:
            sender = AIOKafkaProducer(bootstrap_servers=SERVER, **options)
            await sender.start()
            for i in range(50):
                await sender.send_and_wait(topic, b"%d" % i)
            await sender.stop()
        records = await read(150, topic)
        assert [record.offset for record in records] == list(range(150))

    asyncio.run(go())


@check
def group_goes_on():
    async def go():
        topic, group = await make_topic(2), unique("g")
        sender = AIOKafkaProducer(bootstrap_servers=SERVER)
        await sender.start()
        for i in range(20):
            await sender.send_and_wait(topic, b"first", partition=i % 2)
        assert len(await read(20, topic, group_id=group)) == 20
        for i in range(6):
            await sender.send_and_wait(topic, b"then", partition=i % 2)
        await sender.stop()
        assert all(record.value == b"then" for record in await read(6, topic, group_id=group))

    asyncio.run(go())


@check
def seek_and_offsets():
    async def go():
        topic = await make_topic()
        sender = AIOKafkaProducer(bootstrap_servers=SERVER)
        await sender.start()
        for i in range(10):
            await sender.send_and_wait(topic, b"%d" % i, timestamp_ms=1_600_000_000_000 + i)
        await sender.stop()
        reader = AIOKafkaConsumer(bootstrap_servers=SERVER)
        await reader.start()
        tp = TopicPartition(topic, 0)
        reader.assign([tp])
        assert (await reader.end_offsets([tp]))[tp] == 10
        assert (await reader.offsets_for_times({tp: 1_600_000_000_004}))[tp].offset == 4
        reader.seek(tp, 8)
        assert (await asyncio.wait_for(reader.getone(), 20)).value == b"8"
        await reader.stop()

    asyncio.run(go())


run("aiokafka", aiokafka.__version__, sys.argv[2] if len(sys.argv) > 2 else None)
