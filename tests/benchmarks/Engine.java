// Debezium's embedded engine, told by a file of properties, until it has given nine tenths of so many records, as JSON.
// Prints how many came after the first fifth, in which the compiler of the virtual machine warms up, and in how many ms.

import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.Json;
import java.io.FileInputStream;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;

public class Engine {
    static long begunMs, skipped, endedMs, count;

    public static void main(String[] told) throws Exception {
        var properties = new Properties();
        try (var file = new FileInputStream(told[0])) {
            properties.load(file);
        }
        long wanted = Long.parseLong(told[1]);
        var done = new CountDownLatch(1);
        var engine = DebeziumEngine.create(Json.class).using(properties).notifying((records, committer) -> {
            for (ChangeEvent<String, String> each : records) {
                committer.markProcessed(each);
            }
            committer.markBatchFinished();
            count += records.size();
            endedMs = System.currentTimeMillis();
            if (begunMs == 0 && count >= wanted / 5) {
                begunMs = endedMs;
                skipped = count;
            }
            if (count >= wanted * 9 / 10) {
                done.countDown();
            }
        }).using((success, message, error) -> {
            if (!success) {
                System.err.println(message);
            }
            done.countDown();
        }).build();
        var runner = Executors.newSingleThreadExecutor();
        runner.execute(engine);
        done.await();
        engine.close();
        runner.shutdown();
        System.out.println((count - skipped) + " " + (endedMs - begunMs));
        System.exit(skipped == 0 ? 1 : 0);
    }
}
