// Search in pages opened from a folder. A browser starts no Worker for file:// pages; there, a hidden frame takes the worker's place.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.frame = frame;
      const inside = frame.contentWindow;
      const page = inside.document;
      page.open();
      page.write("<!doctype html><html><body></body></html>");
      page.close();
      inside.IFrameWorker = window.IFrameWorker; // the search asks for it, to know where it runs
      inside.postMessage = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        this.onmessage?.(event);
      };
      inside.importScripts = (...urls) =>
        urls.reduce((before, source) => before.then(() => this.load(source)), Promise.resolve());
      this.ready = this.load(new URL(url, location.href).href);
    }
    load(source) {
      return new Promise((done, failed) => {
        const script = this.frame.contentWindow.document.createElement("script");
        script.src = source;
        script.onload = done;
        script.onerror = failed;
        this.frame.contentWindow.document.body.append(script);
      });
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
  window.Worker = window.IFrameWorker;
}
