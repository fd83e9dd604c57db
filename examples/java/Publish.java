import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.UUID;

/**
 * Publishes a job and an event as the backend does, by the plain RabbitMQ client.
 *
 * <p>On Debian: {@code apt install default-jdk-headless librabbitmq-client-java}, then {@code java -cp
 * '/usr/share/java/amqp-client.jar:/usr/share/java/slf4j-api.jar:/usr/share/java/slf4j-nop.jar' Publish.java
 * amqp://guest:guest@127.0.0.1:5672/ rec}. The exchanges and queues are there once a worker has started. What this
 * program has printed is safe.
 */
public final class Publish {
    private static final AMQP.BasicProperties JSON = new AMQP.BasicProperties.Builder()
            .contentType("application/json")
            .contentEncoding("UTF-8")
            .deliveryMode(2)
            .build();

    public static void main(String[] arguments) throws Exception {
        String address = arguments.length > 0 ? arguments[0] : "amqp://guest:guest@127.0.0.1:5672/";
        String prefix = arguments.length > 1 ? arguments[1] : "rec";
        String jobId = UUID.randomUUID().toString();
        // Their strings hold nothing that JSON would escape; a program of yours has a library for that.
        String job = String.format(
                "{\"jobId\":\"%s\",\"memberId\":7,\"favoriteSongIds\":[1,2,3],\"strategy\":\"default\",\"topK\":50,"
                        + "\"locale\":\"en\",\"source\":\"manual\",\"requestedAt\":\"%s\",\"attempt\":0}",
                jobId, Instant.now());
        String event = String.format(
                "{\"eventId\":\"%s\",\"memberId\":7,\"songId\":3,\"type\":\"like\",\"occurredAt\":\"%s\"}",
                UUID.randomUUID(), Instant.now());

        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(address);
        if (factory.getVirtualHost().isEmpty()) {
            factory.setVirtualHost("/"); // what a URI means that ends in a slash, but to this client
        }
        try (Connection connection = factory.newConnection(); Channel channel = connection.createChannel()) {
            boolean[] returned = {false};
            channel.addReturnListener((code, text, exchange, key, properties, body) -> returned[0] = true);
            channel.confirmSelect();
            publish(channel, prefix + ".exchange", "recommendation.generate", job);
            publish(channel, prefix + ".events.exchange", "event.like", event);
            channel.waitForConfirmsOrDie(10_000);
            if (returned[0]) {
                throw new IllegalStateException("no queue took it: has a worker been started?");
            }
        }
        System.out.println(jobId);
    }

    private static void publish(Channel channel, String exchange, String key, String body) throws Exception {
        channel.basicPublish(exchange, key, true, JSON, body.getBytes(StandardCharsets.UTF_8));
    }
}
