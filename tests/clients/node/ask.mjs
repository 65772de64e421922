// Asks everything through the official SDK and prints what it saw, one JSON value per line.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "sk-test", maxRetries: 0 });
const model = "text2sql";
const messages = [{ role: "user", content: "größe 漢字 🙂?" }];
const show = (value) => console.log(JSON.stringify(value));

show(await client.chat.completions.create({ model, messages, n: 2, logprobs: true }));
for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
  show(chunk);
}
show(await client.completions.create({ model, prompt: "a" }));
show(await client.embeddings.create({ model, input: ["a", "b"] }));
show(await client.responses.create({ model, input: "a" }));
for await (const event of await client.responses.create({ model, input: "a", stream: true })) {
  show(event);
}
try {
  await client.chat.completions.create({ model, messages: [] });
} catch (error) {
  show([error.constructor.name, error.status, error.code, error.param, error.message]);
}
