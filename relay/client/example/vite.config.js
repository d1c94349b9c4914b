import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// The relay of `make dev`; the page asks its own server, which passes it on.
const relay = process.env.RELAY ?? "http://127.0.0.1:8080";

export default defineConfig({
  plugins: [react()],
  server: { proxy: { "/api": { target: relay, ws: true } } },
});
