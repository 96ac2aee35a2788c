// The page of soragen studio: one WebSocket for the signals of WebRTC and for everything else (src/protocol.rs).

const byId = (id) => document.getElementById(id);
const knobs = byId("knobs");
let socket, peer;

function say(text) {
  byId("state").textContent = text;
}

function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws${location.search}`);
  socket.onopen = () => {
    say("connected");
    send({ type: "watch" });
  };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    handlers[message.type]?.(message);
  };
  socket.onclose = () => {
    say("connection lost; trying again");
    peer?.close();
    peer = undefined;
    closeCamera();
    early.length = 0;
    setTimeout(connect, 1000);
  };
}

// Candidates that come before the offer is set.
const early = [];

async function answer({ sdp }) {
  peer?.close();
  peer = new RTCPeerConnection({ iceServers: [] });
  peer.ontrack = ({ track, streams }) => {
    byId("video").srcObject = streams[0] ?? new MediaStream([track]);
  };
  peer.onicecandidate = ({ candidate }) => {
    if (candidate?.candidate) send({ type: "ice", candidate: candidate.candidate, line: candidate.sdpMLineIndex });
  };
  const current = peer;
  peer.onconnectionstatechange = () => {
    say(current.connectionState);
    if (current === peer && current.connectionState === "failed") send({ type: "watch" });
  };
  await peer.setRemoteDescription({ type: "offer", sdp });
  await peer.setLocalDescription(await peer.createAnswer());
  send({ type: "answer", sdp: peer.localDescription.sdp });
  for (const candidate of early.splice(0)) await peer.addIceCandidate(candidate);
}

function setPressed(id, pressed) {
  byId(id).setAttribute("aria-pressed", String(pressed));
}

const handlers = {
  offer: answer,
  ice({ candidate, line }) {
    const init = { candidate, sdpMLineIndex: line };
    if (peer?.remoteDescription) peer.addIceCandidate(init).catch(() => {});
    else early.push(init);
  },
  values({ values, paused, recording, camera }) {
    for (const [name, value] of Object.entries(values)) {
      const input = name === "prompt" ? byId("prompt") : knobs.elements[name];
      if (input && input !== document.activeElement) input.value = value ?? "";
    }
    setPressed("pause", paused);
    setPressed("record", Boolean(recording));
    setPressed("camera", camera);
    knobs.elements.strength.disabled = !camera;
  },
  "camera-answer": ({ sdp }) => camera?.setRemoteDescription({ type: "answer", sdp }),
  "camera-ice": ({ candidate, line }) => camera?.addIceCandidate({ candidate, sdpMLineIndex: line }).catch(() => {}),
  camera({ connected }) {
    if (!connected) closeCamera();
    say(connected ? "the camera is connected" : "on air");
  },
  storyboard({ left }) {
    byId("to-come").textContent = left ? `${left} shots to come` : "";
  },
  shot({ prompt, references }) {
    byId("refusal").textContent = "";
    const time = new Date().toLocaleTimeString();
    const item = document.createElement("li");
    item.textContent = `${time}  ${prompt}${references.length ? ` (${references.join(", ")})` : ""}`;
    byId("shots").prepend(item);
    while (byId("shots").children.length > 100) byId("shots").lastChild.remove();
  },
  slate({ shown, reason }) {
    say(shown ? (reason === "failed" ? "the model has failed" : "the model is loading") : "on air");
  },
  refused({ property, reason }) {
    byId("refusal").textContent = property ? `${property}: ${reason}` : reason;
  },
  warning({ text }) {
    byId("refusal").textContent = text;
  },
  failed({ text }) {
    say("the stream has ended");
    byId("refusal").textContent = text;
  },
  meter({ fps, late, chunk, latency, viewers }) {
    byId("fps").textContent = `${fps.toFixed(1)} frames/s`;
    byId("late").textContent = late;
    byId("chunk").textContent = `${chunk.toFixed(0)} ms`;
    byId("latency").textContent = `${latency.toFixed(0)} ms`;
    byId("viewers").textContent = viewers;
  },
  recording({ file }) {
    setPressed("record", Boolean(file));
    say(file ? `recording ${file}` : "the recording is complete");
  },
};

byId("prompt-form").addEventListener("submit", (event) => {
  event.preventDefault();
  show("continue");
});
const show = (transition) => send({ type: "set", values: { transition, prompt: byId("prompt").value } });
byId("cut").addEventListener("click", () => show("cut"));
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    byId("prompt-form").requestSubmit();
  }
});
knobs.addEventListener("submit", (event) => event.preventDefault());
knobs.addEventListener("change", ({ target }) => {
  if (!target.name) return;
  const value = target.type === "number" ? Number(target.value) : target.value;
  send({ type: "set", values: { [target.name]: value } });
});
const toggle = (id, message) =>
  byId(id).addEventListener("click", () => send(message(byId(id).getAttribute("aria-pressed") !== "true")));
toggle("pause", (paused) => ({ type: "pause", paused }));
toggle("record", (on) => ({ type: "record", on }));

// Bytes of a picture (src/uploads.rs).
const LARGEST = 16 << 20;
let camera;

function closeCamera() {
  camera?.getSenders().forEach((sender) => sender.track?.stop());
  camera?.close();
  camera = undefined;
}

async function openCamera() {
  camera = new RTCPeerConnection({ iceServers: [] });
  const stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 384, frameRate: 16 } });
  camera.onicecandidate = ({ candidate }) => {
    if (candidate?.candidate) send({ type: "camera-ice", candidate: candidate.candidate, line: candidate.sdpMLineIndex });
  };
  const sending = camera.addTransceiver(stream.getVideoTracks()[0], { direction: "sendonly", streams: [stream] });
  sending.setCodecPreferences(RTCRtpSender.getCapabilities("video").codecs.filter(({ mimeType }) => mimeType === "video/VP8"));
  await camera.setLocalDescription(await camera.createOffer());
  send({ type: "camera", sdp: camera.localDescription.sdp });
}

byId("camera").addEventListener("click", () => {
  if (camera || byId("camera").getAttribute("aria-pressed") === "true") return send({ type: "camera-stop" });
  openCamera().catch(({ message }) => {
    closeCamera();
    handlers.refused({ property: "camera", reason: message });
  });
});
byId("upload").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  if (!file) return;
  target.value = "";
  const refuse = (reason) => handlers.refused({ property: file.name, reason });
  if (file.size > LARGEST) return refuse("the picture is larger than 16 MB");
  let answer, text;
  try {
    answer = await fetch(`references/${encodeURIComponent(file.name)}${location.search}`, { method: "POST", body: file });
    text = await answer.text();
  } catch ({ message }) {
    return refuse(message);
  }
  if (!answer.ok) return refuse(text);
  const others = knobs.elements.reference.value.split(";").map((name) => name.trim()).filter(Boolean);
  send({ type: "set", values: { reference: [text, ...others.filter((name) => name !== text)].slice(0, 2).join("; ") } });
});
byId("storyboard").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  if (file) send({ type: "storyboard", text: await file.text() });
  target.value = "";
});
byId("regenerate").addEventListener("click", () => send({ type: "regenerate" }));
document.addEventListener("keydown", (event) => {
  const id = event.altKey && { c: "cut", p: "pause", r: "record", g: "regenerate", m: "camera" }[event.key.toLowerCase()];
  if (id) {
    event.preventDefault();
    byId(id).click();
  }
});

connect();
