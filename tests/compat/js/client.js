// kafkajs against a node: `node client.js HOST:PORT`. Prints a line for each check.
import assert from 'node:assert'
import { randomUUID } from 'node:crypto'
import { createRequire } from 'node:module'
import kafkajs from 'kafkajs'

const { Kafka, CompressionTypes, ConfigResourceTypes, logLevel } = kafkajs
const kafka = new Kafka({ clientId: 'compat', brokers: [process.argv[2]], logLevel: logLevel.NOTHING })
const { version } = createRequire(import.meta.url)('kafkajs/package.json')
const unique = name => `${name}-${randomUUID().slice(0, 8)}`
const within = (seconds, what, promise) => {
  let timer
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`${what}: not within ${seconds} s`)), seconds * 1000) })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

async function withAdmin(act) {
  const admin = kafka.admin()
  await admin.connect()
  try {
    return await act(admin)
  } finally {
    await admin.disconnect()
  }
}

async function makeTopic(numPartitions = 1) {
  const topic = unique('js')
  await withAdmin(admin => admin.createTopics({ waitForLeaders: true, topics: [{ topic, numPartitions }] }))
  return topic
}

async function produce(topic, count, { compression, idempotent = false } = {}) {
  const producer = kafka.producer({ idempotent })
  await producer.connect()
  const messages = Array.from({ length: count }, (_, i) => ({ key: `k${i}`, value: `v${i}`, headers: { n: `${i}` } }))
  for (let i = 0; i < count; i += 100) await producer.send({ topic, compression, acks: -1, messages: messages.slice(i, i + 100) })
  await producer.disconnect()
}

// Reads until `count` messages came to a group's members together; what each of them read.
async function consume(topic, groupId, count, members = 1) {
  const read = Array.from({ length: members }, () => [])
  const consumers = read.map(() => kafka.consumer({ groupId, sessionTimeout: 10000, rebalanceTimeout: 10000 }))
  let done
  const all = new Promise(resolve => { done = resolve })
  try {
    await Promise.all(consumers.map(async (consumer, i) => {
      await consumer.connect()
      await consumer.subscribe({ topics: [topic], fromBeginning: true })
      await consumer.run({
        eachMessage: async ({ partition, message }) => {
          read[i].push({ partition, offset: Number(message.offset), value: message.value.toString(), header: message.headers.n.toString() })
          if (read.flat().length >= count) done()
        },
      })
    }))
    await within(60, `${count} messages`, all)
  } finally {
    await Promise.all(consumers.map(consumer => consumer.disconnect()))
  }
  return read
}

const checks = {
  'produce and consume, plain and gzip': async () => {
    for (const compression of [CompressionTypes.None, CompressionTypes.GZIP]) {
      const topic = await makeTopic()
      await produce(topic, 500, { compression })
      const [read] = await consume(topic, unique('g'), 500)
      read.forEach((message, i) => assert.deepEqual(message, { partition: 0, offset: i, value: `v${i}`, header: `${i}` }))
    }
  },
  'idempotent producer': async () => {
    const topic = await makeTopic(3)
    await produce(topic, 300, { idempotent: true })
    const [read] = await consume(topic, unique('g'), 300)
    assert.equal(new Set(read.map(message => message.value)).size, 300)
  },
  'a group of two shares the partitions and goes on where it stopped': async () => {
    const [topic, group] = [await makeTopic(4), unique('g')]
    await produce(topic, 400)
    const read = await consume(topic, group, 400, 2)
    assert.equal(new Set(read.flat().map(message => message.value)).size, 400)
    await produce(topic, 100)
    const [again] = await consume(topic, group, 100)
    assert.equal(again.length, 100, 'nothing is read twice')
  },
  'admin: topics, configs, offsets, groups': async () => {
    const [topic, group] = [await makeTopic(2), unique('g')]
    await produce(topic, 100)
    await consume(topic, group, 100)
    await withAdmin(async admin => {
      const { topics: [metadata] } = await admin.fetchTopicMetadata({ topics: [topic] })
      assert.equal(metadata.partitions.length, 2)
      assert((await admin.describeCluster()).brokers.length > 0)
      await admin.createPartitions({ topicPartitions: [{ topic, count: 3 }] })
      const resource = { type: ConfigResourceTypes.TOPIC, name: topic }
      await admin.alterConfigs({ resources: [{ ...resource, configEntries: [{ name: 'retention.ms', value: '12345' }] }] })
      const described = await admin.describeConfigs({ resources: [{ ...resource, configNames: ['retention.ms'] }] })
      assert.equal(described.resources[0].configEntries[0].configValue, '12345')
      const ends = await admin.fetchTopicOffsets(topic)
      assert.equal(ends.reduce((sum, { high }) => sum + Number(high), 0), 100)
      assert((await admin.listGroups()).groups.some(({ groupId }) => groupId === group))
      assert.equal((await admin.describeGroups([group])).groups[0].state, 'Empty')
      const committed = (await admin.fetchOffsets({ groupId: group, topics: [topic] }))[0].partitions
      assert.equal(committed.reduce((sum, { offset }) => sum + Math.max(0, Number(offset)), 0), 100)
      await admin.resetOffsets({ groupId: group, topic, earliest: true })
      const { high } = ends.find(({ partition }) => partition === 0)
      await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: high }] })
      const first = (await admin.fetchTopicOffsets(topic)).find(({ partition }) => partition === 0)
      assert.equal(first.low, high)
      await admin.deleteGroups([group])
      await admin.deleteTopics({ topics: [topic] })
      assert(!(await admin.listTopics()).includes(topic))
    })
  },
  'transactions are refused': async () => {
    const producer = kafka.producer({ transactionalId: unique('t'), idempotent: true, maxInFlightRequests: 1, retry: { retries: 1 } })
    await producer.connect()
    // It says no more than that it finds no coordinator for them.
    await assert.rejects(within(20, 'a refusal', producer.transaction()), error => /coordinator/.test(error.message))
    await producer.disconnect()
  },
}

let failed = false
for (const [name, check] of Object.entries(checks)) {
  const started = performance.now()
  try {
    await check()
    console.log(`ok kafkajs ${version} | ${name} | ${((performance.now() - started) / 1000).toFixed(1)} s`)
  } catch (error) {
    failed = true
    console.log(`FAIL kafkajs ${version} | ${name} | ${String(error).replaceAll('\n', ' ')}`)
    console.error(name, error)
  }
}
process.exit(failed ? 1 : 0)
