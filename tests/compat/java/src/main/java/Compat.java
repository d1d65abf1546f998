import java.time.Duration;
import java.util.*;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.serialization.*;

/** Kafka's own client against a server: {@code Compat host:port [part of a check's name]}. */
public class Compat {
  interface Check {
    void run() throws Exception;
  }

  static final String VERSION = org.apache.kafka.common.utils.AppInfoParser.getVersion();
  static String server;
  static boolean failed = false;
  static String only = "";

  static String unique(String name) {
    return name + "-" + UUID.randomUUID().toString().substring(0, 8);
  }

  static void expect(boolean holds, String what) {
    if (!holds) throw new AssertionError(what);
  }

  static void check(String name, Check check) {
    if (!name.contains(only)) return;
    long started = System.nanoTime();
    try {
      check.run();
      System.out.printf("ok java %s | %s | %.1f s%n", VERSION, name, (System.nanoTime() - started) / 1e9);
    } catch (Throwable error) {
      failed = true;
      System.out.printf("FAIL java %s | %s | %s%n", VERSION, name, error.toString().replace('\n', ' '));
      error.printStackTrace();
    }
  }

  static Map<String, Object> settings(Object... more) {
    Map<String, Object> settings = new HashMap<>();
    settings.put("bootstrap.servers", server);
    for (int i = 0; i < more.length; i += 2) settings.put((String) more[i], more[i + 1]);
    return settings;
  }

  static Admin admin() {
    return Admin.create(settings());
  }

  static String makeTopic(int partitions) throws Exception {
    String topic = unique("java");
    try (Admin admin = admin()) {
      admin.createTopics(List.of(new NewTopic(topic, Optional.of(partitions), Optional.empty()))).all().get(20, TimeUnit.SECONDS);
    }
    return topic;
  }

  static KafkaProducer<String, String> producer(Object... more) {
    return new KafkaProducer<>(settings(more), new StringSerializer(), new StringSerializer());
  }

  static KafkaConsumer<String, String> consumer(Object... more) {
    Map<String, Object> settings = settings("auto.offset.reset", "earliest");
    for (int i = 0; i < more.length; i += 2) settings.put((String) more[i], more[i + 1]);
    return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
  }

  static void produce(String topic, int count, Object... more) throws Exception {
    try (KafkaProducer<String, String> producer = producer(more)) {
      List<java.util.concurrent.Future<RecordMetadata>> all = new ArrayList<>();
      for (int i = 0; i < count; i++) all.add(producer.send(new ProducerRecord<>(topic, "v" + i)));
      for (var one : all) one.get(30, TimeUnit.SECONDS);
    }
  }

  static List<ConsumerRecord<String, String>> take(KafkaConsumer<String, String> consumer, int count) {
    List<ConsumerRecord<String, String>> records = new ArrayList<>();
    long deadline = System.nanoTime() + 30_000_000_000L;
    while (records.size() < count && System.nanoTime() < deadline) {
      for (var record : consumer.poll(Duration.ofMillis(500))) records.add(record);
    }
    expect(records.size() == count, records.size() + " of " + count + " records");
    return records;
  }

  static void codecs() throws Exception {
    for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
      String topic = makeTopic(1);
      produce(topic, 500, "compression.type", codec);
      try (var consumer = consumer("group.id", unique("g"))) {
        consumer.subscribe(List.of(topic));
        var records = take(consumer, 500);
        for (int i = 0; i < 500; i++) expect(records.get(i).offset() == i && records.get(i).value().equals("v" + i), codec + " record " + i);
        expect(records.get(0).leaderEpoch().isPresent(), "a leader epoch");
      }
    }
  }

  static void groups() throws Exception {
    String topic = makeTopic(4), group = unique("g");
    produce(topic, 100);
    for (String assignor : List.of("RangeAssignor", "CooperativeStickyAssignor")) {
      group = unique("g");
      String strategy = "org.apache.kafka.clients.consumer." + assignor;
      Object[] options = {"group.id", group, "partition.assignment.strategy", strategy, "enable.auto.commit", "false"};
      try (var one = consumer(options); var two = consumer(options)) {
        one.subscribe(List.of(topic));
        two.subscribe(List.of(topic));
        long deadline = System.nanoTime() + 60_000_000_000L;
        while (one.assignment().size() != 2 || two.assignment().size() != 2) {
          expect(System.nanoTime() < deadline, assignor + ": " + one.assignment() + " and " + two.assignment());
          one.poll(Duration.ofMillis(100));
          two.poll(Duration.ofMillis(100));
        }
      }
      try (var one = consumer(options)) {
        one.subscribe(List.of(topic));
        take(one, 100);
        one.commitSync();
      }
      try (var one = consumer(options)) {
        one.subscribe(List.of(topic));
        expect(one.poll(Duration.ofSeconds(3)).isEmpty(), "it goes on where the group stopped");
      }
    }
  }

  static void staticMembers() throws Exception {
    String topic = makeTopic(2), group = unique("g");
    produce(topic, 10);
    Object[] options = {"group.id", group, "group.instance.id", "one", "enable.auto.commit", "false"};
    String first;
    try (var one = consumer(options)) {
      one.subscribe(List.of(topic));
      take(one, 10);
      first = one.groupMetadata().generationId() + "";
    }
    try (var one = consumer(options)) {
      one.subscribe(List.of(topic));
      take(one, 10);
      expect(first.equals(one.groupMetadata().generationId() + ""), "the same generation as before");
    }
  }

  static void offsets() throws Exception {
    String topic = makeTopic(1);
    TopicPartition tp = new TopicPartition(topic, 0);
    try (var producer = producer()) {
      for (int i = 0; i < 100; i++) producer.send(new ProducerRecord<>(topic, 0, 1_600_000_000_000L + 1000 * i, "k", "v"));
    }
    try (var consumer = consumer(); Admin admin = admin()) {
      expect(consumer.endOffsets(List.of(tp)).get(tp) == 100, "the end");
      expect(consumer.offsetsForTimes(Map.of(tp, 1_600_000_010_500L)).get(tp).offset() == 11, "by time");
      expect(consumer.offsetsForTimes(Map.of(tp, 1_700_000_000_000L)).get(tp) == null, "beyond the end");
      var max = admin.listOffsets(Map.of(tp, OffsetSpec.maxTimestamp())).partitionResult(tp).get();
      expect(max.offset() == 99 && max.timestamp() == 1_600_000_099_000L, "the newest time: " + max);
      admin.deleteRecords(Map.of(tp, RecordsToDelete.beforeOffset(40))).all().get();
      expect(admin.listOffsets(Map.of(tp, OffsetSpec.earliest())).partitionResult(tp).get().offset() == 40, "the beginning");
      consumer.assign(List.of(tp));
      consumer.seek(tp, 0);
      expect(take(consumer, 60).get(0).offset() == 40, "out of range goes to the beginning");
    }
  }

  static void logAppendTime() throws Exception {
    String topic = unique("java");
    TopicPartition tp = new TopicPartition(topic, 0);
    try (Admin admin = admin(); var producer = producer("compression.type", "zstd"); var consumer = consumer()) {
      var configs = Map.of("message.timestamp.type", "LogAppendTime");
      admin.createTopics(List.of(new NewTopic(topic, 1, (short) 1).configs(configs))).all().get(20, TimeUnit.SECONDS);
      long before = System.currentTimeMillis();
      long told = producer.send(new ProducerRecord<>(topic, 0, 1000L, "k", "v")).get().timestamp();
      expect(told >= before && told <= System.currentTimeMillis(), "the producer is told " + told);
      consumer.assign(List.of(tp));
      var record = take(consumer, 1).get(0);
      expect(record.timestamp() == told && record.timestampType() == org.apache.kafka.common.record.TimestampType.LOG_APPEND_TIME, record.toString());
      expect(consumer.offsetsForTimes(Map.of(tp, told)).get(tp).timestamp() == told, "it is found by its time");
      expect(consumer.offsetsForTimes(Map.of(tp, told + 1)).get(tp) == null, "nothing is newer");
    }
  }

  static void topicsAndConfigs() throws Exception {
    String topic = makeTopic(2);
    try (Admin admin = admin()) {
      TopicDescription described = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
      expect(described.partitions().size() == 2 && !described.topicId().equals(Uuid.ZERO_UUID), described.toString());
      expect(described.partitions().get(0).leader() != null && !described.partitions().get(0).isr().isEmpty(), described.toString());
      var byId = admin.describeTopics(TopicCollection.ofTopicIds(List.of(described.topicId()))).allTopicIds().get();
      expect(byId.get(described.topicId()).name().equals(topic), "by id");
      ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
      var set = new AlterConfigOp(new ConfigEntry("retention.ms", "12345"), AlterConfigOp.OpType.SET);
      admin.incrementalAlterConfigs(Map.of(resource, List.of(set))).all().get();
      var entry = admin.describeConfigs(List.of(resource)).all().get().get(resource).get("retention.ms");
      expect(entry.value().equals("12345") && entry.source() == ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, entry.toString());
      admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(3))).all().get();
      expect(admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size() == 3, "3 partitions");
      expect(admin.describeCluster().clusterId().get() != null && !admin.describeCluster().nodes().get().isEmpty(), "a cluster");
      expect(admin.listPartitionReassignments().reassignments().get().isEmpty(), "nothing is reassigned");
      try {
        admin.electLeaders(ElectionType.PREFERRED, Set.of(new TopicPartition(topic, 0))).all().get();
        throw new AssertionError("an election was held");
      } catch (ExecutionException error) {
        expect(error.getCause() instanceof ElectionNotNeededException, error.toString());
      }
      try {
        admin.createTopics(List.of(new NewTopic(unique("c"), 1, (short) 1).configs(Map.of("cleanup.policy", "compact")))).all().get();
        throw new AssertionError("a compacted topic was made");
      } catch (ExecutionException error) {
        expect(error.getCause() instanceof InvalidConfigurationException && error.getMessage().contains("compact"), error.toString());
      }
      admin.deleteTopics(List.of(topic)).all().get();
    }
  }

  static void logDirsAndProducers() throws Exception {
    String topic = makeTopic(2);
    TopicPartition tp = new TopicPartition(topic, 0);
    try (Admin admin = admin(); var producer = producer()) {
      for (int i = 0; i < 50; i++) producer.send(new ProducerRecord<>(topic, 0, "k", "x".repeat(1000))).get();
      var producers = admin.describeProducers(List.of(tp)).partitionResult(tp).get().activeProducers();
      expect(producers.size() == 1 && producers.get(0).lastSequence() == 49, producers.toString());
      expect(System.currentTimeMillis() - producers.get(0).lastTimestamp() < 60_000, producers.toString());
      var brokers = admin.describeCluster().nodes().get().stream().map(Node::id).toList();
      long deadline = System.nanoTime() + 30_000_000_000L, size = 0;
      while (size < 50_000 && System.nanoTime() < deadline) {
        Thread.sleep(200);
        size = 0;
        for (var dirs : admin.describeLogDirs(brokers).allDescriptions().get().values()) {
          for (var dir : dirs.values()) {
            expect(dir.error() == null && dir.totalBytes().getAsLong() > dir.usableBytes().getAsLong(), dir.toString());
            var replica = dir.replicaInfos().get(tp);
            if (replica != null) {
              expect(replica.offsetLag() == 0 && !replica.isFuture(), replica.toString());
              size += replica.size();
            }
          }
        }
      }
      expect(size >= 50_000 && size < 200_000, "its size is " + size);
    }
  }

  static void groupAdmin() throws Exception {
    String topic = makeTopic(1), group = unique("g");
    TopicPartition tp = new TopicPartition(topic, 0);
    produce(topic, 10);
    try (Admin admin = admin()) {
      try (var consumer = consumer("group.id", group)) {
        consumer.subscribe(List.of(topic));
        take(consumer, 10);
        consumer.commitSync();
        var described = admin.describeConsumerGroups(List.of(group)).all().get().get(group);
        expect(described.members().size() == 1, described.toString());
        expect(admin.listConsumerGroups().all().get().stream().anyMatch(g -> g.groupId().equals(group)), "it is listed");
      }
      expect(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(tp).offset() == 10, "its offset");
      admin.alterConsumerGroupOffsets(group, Map.of(tp, new OffsetAndMetadata(3, "mine"))).all().get();
      expect(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(tp).metadata().equals("mine"), "metadata");
      admin.deleteConsumerGroupOffsets(group, Set.of(tp)).all().get();
      expect(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(tp) == null, "it is deleted");
      admin.deleteConsumerGroups(List.of(group)).all().get();
    }
  }

  static void transactions() throws Exception {
    try (var producer = producer("transactional.id", unique("t"), "max.block.ms", "20000")) {
      long started = System.nanoTime();
      try {
        producer.initTransactions();
        throw new AssertionError("they were accepted");
      } catch (TransactionalIdAuthorizationException error) {
        expect(System.nanoTime() - started < 15_000_000_000L, "at once");
      }
    }
  }

  static void largeRecords() throws Exception {
    String topic = makeTopic(1);
    try (var producer = producer("max.request.size", "10000000", "batch.size", "1000000", "linger.ms", "100")) {
      try {
        producer.send(new ProducerRecord<>(topic, "x".repeat(2_000_000))).get();
        throw new AssertionError("it was taken");
      } catch (ExecutionException error) {
        expect(error.getCause() instanceof RecordTooLargeException, error.toString());
      }
      List<java.util.concurrent.Future<RecordMetadata>> all = new ArrayList<>();
      for (int i = 0; i < 8; i++) all.add(producer.send(new ProducerRecord<>(topic, "y".repeat(400_000))));
      for (var one : all) one.get(30, TimeUnit.SECONDS);
    }
    try (var consumer = consumer("fetch.max.bytes", "1000", "max.partition.fetch.bytes", "1000")) {
      consumer.assign(List.of(new TopicPartition(topic, 0)));
      take(consumer, 8);
    }
  }

  public static void main(String[] arguments) {
    server = arguments[0];
    if (arguments.length > 1) only = arguments[1];
    check("produce and consume with all codecs", Compat::codecs);
    check("groups, eager and cooperative", Compat::groups);
    check("static members come back without a rebalance", Compat::staticMembers);
    check("offsets by time, max timestamp, delete records", Compat::offsets);
    check("LogAppendTime", Compat::logAppendTime);
    check("topics and configs", Compat::topicsAndConfigs);
    check("sizes in log dirs, active producers", Compat::logDirsAndProducers);
    check("group admin", Compat::groupAdmin);
    check("transactions are refused at once", Compat::transactions);
    check("large records are refused, small fetches progress", Compat::largeRecords);
    System.exit(failed ? 1 : 0);
  }
}
