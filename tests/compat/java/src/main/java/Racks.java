import java.time.Duration;
import java.util.*;
import java.util.stream.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.common.utils.AppInfoParser;

/**
 * A consumer in a rack: {@code Racks SERVERS TOPIC PARTITIONS RACK}; without arguments it says which version it is. Prints what it
 * reads ({@code read VALUE …}), and which node each partition is read from ({@code from NODE …}).
 */
public class Racks {
  public static void main(String[] args) {
    if (args.length == 0) {
      System.out.println(AppInfoParser.getVersion());
      return;
    }
    String topic = args[1];
    var partitions = IntStream.range(0, Integer.parseInt(args[2])).mapToObj(index -> new TopicPartition(topic, index)).toList();
    Map<String, Object> settings = Map.of(
        "bootstrap.servers", args[0], "client.rack", args[3], "auto.offset.reset", "earliest", "enable.auto.commit", "false",
        "metadata.max.age.ms", "2000");
    try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
      consumer.assign(partitions);
      String before = "";
      while (true) {
        var records = consumer.poll(Duration.ofMillis(100));
        var values = StreamSupport.stream(records.spliterator(), false).map(ConsumerRecord::value).collect(Collectors.joining(" "));
        if (!values.isEmpty()) System.out.println("read " + values);
        String now = partitions.stream().map(partition -> replica(consumer, partition)).collect(Collectors.joining(" "));
        if (!now.equals(before)) System.out.println("from " + now);
        before = now;
      }
    }
  }

  static String replica(KafkaConsumer<?, ?> consumer, TopicPartition partition) {
    for (var metric : consumer.metrics().values()) {
      var name = metric.metricName();
      boolean isOurs = String.valueOf(partition.partition()).equals(name.tags().get("partition"));
      if (!name.name().equals("preferred-read-replica") || !isOurs) continue;
      String replica = String.valueOf(metric.metricValue());
      if (!replica.equals("-1")) return replica;
    }
    return leader(consumer, partition);
  }

  static String leader(KafkaConsumer<?, ?> consumer, TopicPartition partition) {
    for (var info : consumer.partitionsFor(partition.topic())) {
      if (info.partition() == partition.partition() && info.leader() != null) return info.leader().idString();
    }
    return "-1";
  }
}
