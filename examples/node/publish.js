// Publishes a job and an event as the backend does, by amqplib: `npm ci && node publish.js [amqp://...] [prefix]`.
// The exchanges and queues are there once a worker has started. What this program has printed is safe.
import { randomUUID } from "node:crypto";
import amqp from "amqplib";

const [address = "amqp://guest:guest@127.0.0.1:5672/", prefix = "rec"] = process.argv.slice(2);
const jobId = randomUUID();
const now = new Date().toISOString();
const job = {
  jobId,
  memberId: 7,
  favoriteSongIds: [1, 2, 3],
  strategy: "default",
  topK: 50,
  locale: "en",
  source: "manual",
  requestedAt: now,
  attempt: 0,
};
const event = { eventId: randomUUID(), memberId: 7, songId: 3, type: "like", occurredAt: now };
const properties = { contentType: "application/json", contentEncoding: "UTF-8", persistent: true, mandatory: true };

const connection = await amqp.connect(address);
const channel = await connection.createConfirmChannel();
let returned = false;
channel.on("return", () => (returned = true));
channel.publish(`${prefix}.exchange`, "recommendation.generate", Buffer.from(JSON.stringify(job)), properties);
channel.publish(`${prefix}.events.exchange`, "event.like", Buffer.from(JSON.stringify(event)), properties);
await channel.waitForConfirms();
await connection.close();
if (returned) throw new Error("no queue took it: has a worker been started?");
console.log(jobId);
