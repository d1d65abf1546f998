// franz-go and sarama against a server: `compat host:port`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

var server = os.Args[1]

func unique(name string) string { return fmt.Sprintf("%s-%d", name, time.Now().UnixNano()) }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func expect(holds bool, format string, args ...any) {
	if !holds {
		panic(fmt.Errorf(format, args...))
	}
}

func client(opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(server)}, opts...)...)
	must(err)
	return cl
}

func makeTopic(ctx context.Context, partitions int32) string {
	topic := unique("go")
	cl := client()
	defer cl.Close()
	_, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, -1, nil, topic)
	must(err)
	return topic
}

func produce(ctx context.Context, topic string, count int, opts ...kgo.Opt) {
	cl := client(opts...)
	defer cl.Close()
	var records []*kgo.Record
	for i := 0; i < count; i++ {
		records = append(records, &kgo.Record{Topic: topic, Value: []byte(fmt.Sprint(i))})
	}
	must(cl.ProduceSync(ctx, records...).FirstErr())
}

func consume(ctx context.Context, count int, opts ...kgo.Opt) []*kgo.Record {
	cl := client(opts...)
	defer cl.Close()
	var records []*kgo.Record
	for len(records) < count {
		fetches := cl.PollFetches(ctx)
		must(fetches.Err())
		records = append(records, fetches.Records()...)
	}
	if group, _ := cl.GroupMetadata(); group != "" {
		must(cl.CommitUncommittedOffsets(ctx))
	}
	return records
}

func franzProduceAndConsume(ctx context.Context) {
	for _, codec := range []kgo.CompressionCodec{
		kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
	} {
		topic := makeTopic(ctx, 3)
		produce(ctx, topic, 1000, kgo.ProducerBatchCompression(codec))
		seen := map[string]bool{}
		for _, record := range consume(ctx, 1000, kgo.ConsumeTopics(topic)) {
			seen[string(record.Value)] = true
		}
		expect(len(seen) == 1000, "%d of 1000 records", len(seen))
	}
}

func franzGroup(ctx context.Context) {
	topic, group := makeTopic(ctx, 4), unique("g")
	produce(ctx, topic, 200)
	opts := []kgo.Opt{kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit()}
	consume(ctx, 200, opts...)
	produce(ctx, topic, 10)
	again := consume(ctx, 10, opts...)
	expect(len(again) == 10, "%d records after the commit, 10 expected", len(again))
	cl := client()
	defer cl.Close()
	lag, err := kadm.NewClient(cl).Lag(ctx, group)
	must(err)
	expect(lag[group].Lag.Total() == 0, "lag %d", lag[group].Lag.Total())
}

func franzAdmin(ctx context.Context) {
	topic := makeTopic(ctx, 2)
	produce(ctx, topic, 100)
	cl := client()
	defer cl.Close()
	admin := kadm.NewClient(cl)
	described, err := admin.ListTopics(ctx, topic)
	must(err)
	expect(described[topic].ID != kadm.TopicID{}, "a topic has an id")
	ends, err := admin.ListEndOffsets(ctx, topic)
	must(err)
	var total int64
	ends.Each(func(o kadm.ListedOffset) { must(o.Err); total += o.Offset })
	expect(total == 100, "the ends are at %d", total)
	groups, err := admin.ListGroups(ctx)
	must(err)
	_ = groups
	_, err = admin.CreateTopic(ctx, 1, -1, nil, topic)
	expect(errors.Is(err, kerr.TopicAlreadyExists), "%v", err)
	metadata, err := admin.BrokerMetadata(ctx)
	must(err)
	expect(metadata.Cluster != "" && len(metadata.Brokers) > 0, "a cluster has an id and brokers")
	_, err = admin.DeleteTopics(ctx, topic)
	must(err)
}

func saramaProduceAndConsume(ctx context.Context) {
	for _, version := range []sarama.KafkaVersion{sarama.V2_1_0_0, sarama.V2_8_0_0, sarama.V3_6_0_0} {
		config := sarama.NewConfig()
		config.Version = version
		config.Producer.Return.Successes = true
		config.Producer.Idempotent = true
		config.Producer.RequiredAcks = sarama.WaitForAll
		config.Net.MaxOpenRequests = 1
		topic := makeTopic(ctx, 1)
		producer, err := sarama.NewSyncProducer([]string{server}, config)
		must(err)
		for i := 0; i < 50; i++ {
			_, offset, err := producer.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder("x")})
			must(err)
			expect(offset == int64(i), "offset %d, not %d", offset, i)
		}
		must(producer.Close())
		consumer, err := sarama.NewConsumer([]string{server}, config)
		must(err)
		partition, err := consumer.ConsumePartition(topic, 0, sarama.OffsetOldest)
		must(err)
		for i := 0; i < 50; i++ {
			select {
			case message := <-partition.Messages():
				expect(message.Offset == int64(i), "offset %d, not %d", message.Offset, i)
			case <-ctx.Done():
				panic(ctx.Err())
			}
		}
		must(partition.Close())
		must(consumer.Close())
	}
}

func versionOf(client string) string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if path.Base(module.Path) == client {
			return strings.TrimPrefix(module.Version, "v")
		}
	}
	return "-"
}

func run(client, name string, check func(context.Context)) (ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	started, version := time.Now(), versionOf(client)
	defer func() {
		if why := recover(); why != nil {
			fmt.Printf("FAIL %s %s | %s | %v\n", client, version, name, why)
			ok = false
		}
	}()
	check(ctx)
	fmt.Printf("ok %s %s | %s | %.1f s\n", client, version, name, time.Since(started).Seconds())
	return true
}

func main() {
	all := true
	all = run("franz-go", "produce and consume with all codecs", franzProduceAndConsume) && all
	all = run("franz-go", "group commits and goes on", franzGroup) && all
	all = run("franz-go", "admin", franzAdmin) && all
	all = run("sarama", "idempotent produce and consume, three versions", saramaProduceAndConsume) && all
	if !all {
		os.Exit(1)
	}
}
