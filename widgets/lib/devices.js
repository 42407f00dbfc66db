// Microphone and webcam, in words when there is none.

import { mono, wavFile } from "./sound.js";

/** Why a device cannot be used here at all; empty when it can be asked for. */
export function whyNoDevices() {
  if (globalThis.navigator?.mediaDevices?.getUserMedia) return "";
  return "The browser lets only pages from this machine or over HTTPS use a microphone or camera. Choose a file instead.";
}

/** An error of getUserMedia in words. */
export function deviceError(error, what) {
  const reasons = {
    NotAllowedError: `The browser was not allowed to use the ${what}. Allow it beside the address, or choose a file.`,
    NotFoundError: `There is no ${what} on this machine. Choose a file instead.`,
    NotReadableError: `Another program is using the ${what}.`,
  };
  return new Error(reasons[error.name] ?? `The ${what} did not start: ${error.message}`);
}

async function open(wanted, what, signal) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia(wanted);
  } catch (error) {
    throw deviceError(error, what);
  }
  const close = () => stream.getTracks().forEach((track) => track.stop());
  if (signal.aborted) close();
  signal.addEventListener("abort", close, { once: true });
  return { stream, close };
}

/** Start recording; `finish()` gives a WAV file, `cancel()` nothing. At most `most` seconds. */
export async function record(signal, most, full) {
  const { stream, close } = await open({ audio: true }, "microphone", signal);
  let recorder;
  try {
    recorder = new MediaRecorder(stream);
    recorder.start();
  } catch (error) {
    close(); // nobody would know that it is on
    throw deviceError(error, "microphone");
  }
  const parts = [];
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  const stopped = new Promise((resolve) => recorder.addEventListener("stop", resolve, { once: true }));
  const timer = setTimeout(full, 1000 * most);
  const end = async () => {
    clearTimeout(timer);
    if (recorder.state !== "inactive") recorder.stop();
    await stopped;
    close();
  };
  signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  return {
    cancel: end,
    async finish() {
      await end();
      const context = new AudioContext({ sampleRate: 16000 });
      try {
        const sound = await context.decodeAudioData(await new Blob(parts, { type: recorder.mimeType }).arrayBuffer());
        const channels = Array.from({ length: sound.numberOfChannels }, (_, c) => sound.getChannelData(c));
        return new File([wavFile(mono(channels), sound.sampleRate)], "recording.wav", { type: "audio/wav" });
      } finally {
        await context.close();
      }
    },
  };
}

/** Show the webcam in a video element; `take()` gives a PNG file. */
export async function webcam(video, signal) {
  const { stream, close } = await open({ video: { width: { ideal: 1280 } } }, "camera", signal);
  video.srcObject = stream;
  try {
    await video.play();
  } catch (error) {
    close();
    throw deviceError(error, "camera");
  }
  return {
    cancel: close,
    async take() {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
      canvas.getContext("2d").drawImage(video, 0, 0);
      close();
      const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
      return new File([blob], "webcam.png", { type: "image/png" });
    },
  };
}
