import java.time.Duration;
import java.util.*;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentSkipListMap;
import java.util.concurrent.atomic.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.serialization.*;

/**
 * An idempotent producer and a group of one and sometimes two, while somebody else gets the nodes into trouble: {@code Failover SERVERS
 * TOPIC PARTITIONS SECONDS}; without arguments it says which version it is. Every record must be acknowledged, and be read in order under one offset.
 */
public class Failover {
  static String servers, topic;
  static final Map<Integer, ConcurrentSkipListMap<Long, Long>> read = new ConcurrentHashMap<>();
  static final AtomicReference<String> wrong = new AtomicReference<>();
  static volatile boolean stop = false;

  static KafkaConsumer<String, Long> member() {
    Map<String, Object> settings = Map.of(
        "bootstrap.servers", servers, "group.id", topic, "auto.offset.reset", "earliest",
        "session.timeout.ms", "6000", "auto.commit.interval.ms", "500");
    var member = new KafkaConsumer<>(settings, new StringDeserializer(), new LongDeserializer());
    member.subscribe(List.of(topic));
    return member;
  }

  /** Reads for so long, or until all is over. */
  static int consume(long nanos) {
    long deadline = System.nanoTime() + nanos;
    int count = 0;
    try (var member = member()) {
      while (!stop && System.nanoTime() < deadline) {
        for (var record : member.poll(Duration.ofMillis(100))) {
          count++;
          var partition = read.computeIfAbsent(record.partition(), p -> new ConcurrentSkipListMap<>());
          Long before = partition.put(record.offset(), record.value());
          if (before != null && !before.equals(record.value())) wrong.set("offset " + record.offset() + " has two values");
        }
      }
    }
    return count;
  }

  static long total() {
    return read.values().stream().mapToLong(Map::size).sum();
  }

  static void check() {
    read.forEach((partition, records) -> {
      long offset = 0, last = -1;
      for (var record : records.entrySet()) {
        if (record.getKey() != offset++) wrong.set("partition " + partition + ": no offset " + (offset - 1));
        if (record.getValue() <= last) wrong.set("partition " + partition + ": out of order, or twice, at " + record.getKey());
        last = record.getValue();
      }
    });
  }

  public static void main(String[] arguments) throws Exception {
    if (arguments.length == 0) {
      System.out.println(org.apache.kafka.common.utils.AppInfoParser.getVersion());
      return;
    }
    servers = arguments[0];
    topic = arguments[1];
    int partitions = Integer.parseInt(arguments[2]);
    long ends = System.nanoTime() + Long.parseLong(arguments[3]) * 1_000_000_000L;
    Thread steady = new Thread(() -> consume(Long.MAX_VALUE / 2));
    Thread restless = new Thread(() -> {
      try {
        while (!stop && System.nanoTime() < ends) {
          Thread.sleep(3000);
          consume(4_000_000_000L);
        }
      } catch (InterruptedException end) {
        // That is all.
      }
    });
    steady.start();
    restless.start();

    AtomicLong acked = new AtomicLong(), last = new AtomicLong(System.nanoTime()), pause = new AtomicLong();
    long sent = 0;
    Map<String, Object> settings = Map.of("bootstrap.servers", servers, "linger.ms", "5", "enable.idempotence", "true");
    try (var producer = new KafkaProducer<>(settings, new StringSerializer(), new LongSerializer())) {
      for (; System.nanoTime() < ends; sent++) {
        producer.send(new ProducerRecord<>(topic, (int) (sent % partitions), "k", sent / partitions), (metadata, error) -> {
          if (error != null) {
            wrong.set("a record was not taken: " + error);
            return;
          }
          acked.incrementAndGet();
          long now = System.nanoTime();
          pause.accumulateAndGet(now - last.getAndSet(now), Math::max);
        });
        if (sent % 10 == 9) Thread.sleep(4);
      }
      producer.flush();
    }
    long deadline = System.nanoTime() + 60_000_000_000L;
    while (total() < acked.get() && System.nanoTime() < deadline) Thread.sleep(100);
    stop = true;
    steady.join();
    restless.join();
    check();
    if (acked.get() != sent || total() != sent) wrong.set(sent + " sent, " + acked + " acknowledged, " + total() + " read");
    stop = false;
    int late = consume(8_000_000_000L);
    if (late > 0) wrong.set(late + " records were not committed");
    System.out.println(wrong.get() != null ? wrong.get() : String.format("%d records, longest pause %.1f s", sent, pause.get() / 1e9));
    System.exit(wrong.get() != null ? 1 : 0);
  }
}
