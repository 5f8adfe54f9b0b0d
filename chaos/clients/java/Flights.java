// A workload on Apache Kafka's own Java client, with nothing but a properties file to tell it where and as whom.
//
//   Flights load   PROPERTIES TOPIC FILE.jsonl.gz     one record a line, keyed by its carrier
//   Flights digest PROPERTIES TOPIC                   {"records": N, "digest": SHA-256 of all records}
//   Flights resume PROPERTIES TOPIC GROUP COUNT       a group reads half, commits, ends, and goes on

import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.atomic.AtomicLong;
import java.util.zip.GZIPInputStream;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public final class Flights {
    private static final Duration PATIENCE = Duration.ofSeconds(60);

    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        try (FileInputStream file = new FileInputStream(arguments[1])) {
            properties.load(file);
        }
        switch (arguments[0]) {
            case "load" -> load(properties, arguments[2], arguments[3]);
            case "digest" -> digest(properties, arguments[2]);
            case "resume" -> resume(properties, arguments[2], arguments[3], Integer.parseInt(arguments[4]));
            default -> throw new IllegalArgumentException("load, digest or resume, not " + arguments[0]);
        }
    }

    private static void load(Properties properties, String topic, String path) throws Exception {
        AtomicLong acked = new AtomicLong();
        AtomicLong failed = new AtomicLong();
        ObjectMapper json = new ObjectMapper();
        properties.put("acks", "all");
        properties.put("linger.ms", "20");
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer());
                BufferedReader lines = new BufferedReader(
                        new InputStreamReader(new GZIPInputStream(new FileInputStream(path)), StandardCharsets.UTF_8))) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                String carrier = json.readTree(line).get("carrier").asText();
                producer.send(new ProducerRecord<>(topic, carrier, line), (metadata, error) -> {
                    (error == null ? acked : failed).incrementAndGet();
                    if (error != null) {
                        System.err.println("Flights: " + error);
                    }
                });
            }
        }
        System.out.println(json.writeValueAsString(Map.of("acked", acked.get(), "failed", failed.get())));
    }

    private static KafkaConsumer<String, String> consumer(Properties properties, String group) {
        Properties own = new Properties();
        own.putAll(properties);
        own.put("group.id", group);
        own.put("enable.auto.commit", "false");
        own.put("auto.offset.reset", "earliest");
        return new KafkaConsumer<>(own, new StringDeserializer(), new StringDeserializer());
    }

    private static void digest(Properties properties, String topic) throws Exception {
        List<ConsumerRecord<String, String>> records = new ArrayList<>();
        try (KafkaConsumer<String, String> consumer = consumer(properties, "digest-java")) {
            List<TopicPartition> partitions =
                    consumer.partitionsFor(topic).stream().map(one -> new TopicPartition(topic, one.partition())).toList();
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            long deadline = System.nanoTime() + PATIENCE.toNanos();
            while (partitions.stream().anyMatch(one -> consumer.position(one) < ends.get(one))) {
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException("not read to the end in time");
                }
                consumer.poll(Duration.ofMillis(500)).forEach(records::add);
            }
        }
        records.sort(Comparator.<ConsumerRecord<String, String>>comparingInt(ConsumerRecord::partition)
                .thenComparingLong(ConsumerRecord::offset));
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        for (ConsumerRecord<String, String> one : records) {
            String line = one.partition() + "\t" + one.offset() + "\t" + (one.key() == null ? "" : one.key()) + "\t" + one.value() + "\n";
            digest.update(line.getBytes(StandardCharsets.UTF_8));
        }
        String hex = HexFormat.of().formatHex(digest.digest());
        System.out.println(new ObjectMapper().writeValueAsString(Map.of("records", records.size(), "digest", hex)));
    }

    private static void resume(Properties properties, String topic, String group, int count) throws Exception {
        properties.put("max.poll.records", "100");
        long read = 0;
        Set<String> distinct = new HashSet<>();
        for (int until : new int[] {count / 2, count}) {
            try (KafkaConsumer<String, String> consumer = consumer(properties, group)) {
                consumer.subscribe(List.of(topic));
                long deadline = System.nanoTime() + PATIENCE.toNanos();
                while (read < until && System.nanoTime() < deadline) {
                    for (ConsumerRecord<String, String> one : consumer.poll(Duration.ofMillis(500))) {
                        read++;
                        distinct.add(one.partition() + "-" + one.offset());
                    }
                }
                consumer.commitSync();
            }
        }
        System.out.println(new ObjectMapper().writeValueAsString(Map.of("read", read, "distinct", distinct.size())));
    }
}
