"use strict";
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const legend = document.getElementById("legend");
  const narrow = window.matchMedia("(max-width: 640px)").matches;

  // Text always goes in as text, so that no name in the content can become a part of the page.
  const element = (tag, className, text, ...children) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text) made.textContent = text;
    made.append(...children);
    return made;
  };
  const number = (value) => value.toLocaleString("en");

  // Pixels of the scene: x = longitude, y = minus latitude.
  const at = (x, y) => L.latLng(-y, x);
  const bounds = L.latLngBounds(at(0, 0), at(content.width, content.height));
  const map = L.map("map", {
    crs: L.CRS.Simple,
    attributionControl: false,
    zoomControl: false,
    zoomSnap: 0.25,
    maxZoom: 5,
    minZoom: -20,
    maxBounds: bounds.pad(1),
  });
  L.control.zoom({ position: "topleft" }).addTo(map);
  Object.entries({ ground: 300, raster: 350, halo: 395 }).forEach(([name, order]) => {
    map.createPane(name).style.zIndex = order;
  });
  const lines = L.canvas({ pane: "overlayPane", tolerance: 3 });
  const halos = L.canvas({ pane: "halo" });

  const overlay = (image, pane, sharp, opacity = 1) =>
    L.imageOverlay(image, bounds, { pane, opacity, className: sharp ? "sharp" : "" });

  const toggle = (type, checked, onChange, ...children) => {
    const input = element("input");
    input.type = type;
    input.checked = checked;
    input.addEventListener("change", () => onChange(input.checked));
    return element("label", "", "", input, ...children);
  };
  const show = (layers, shown) => layers.forEach((layer) => (shown ? layer.addTo(map) : layer.remove()));
  const swatch = (color, outline) => {
    const made = element("span", outline ? "swatch outline" : "swatch");
    made.style[outline ? "borderColor" : "background"] = color;
    return made;
  };
  const classLine = (entry, outline) => [
    swatch(entry.color, outline),
    element("span", "name", entry.name),
    element("span", "note", entry.note),
  ];

  const addGrounds = () => {
    const images = content.grounds.map((ground) => overlay(ground.image, "ground", content.sharp));
    images[0].addTo(map);
    if (images.length === 1) return;
    const section = element("section", "", "", element("h2", "", "scene"));
    content.grounds.forEach((ground, index) => {
      const choose = () => images.forEach((image, other) => show([image], other === index));
      const line = toggle("radio", index === 0, choose, element("span", "name", ground.name));
      line.firstChild.name = "ground";
      section.append(line);
    });
    legend.append(section);
  };

  const addImage = (layer) => {
    const image = overlay(layer.image, "raster", true, 0.6);
    show([image], layer.shown);
    const opacity = element("input");
    Object.assign(opacity, { type: "range", min: 0, max: 1, step: 0.05, value: 0.6 });
    opacity.addEventListener("input", () => image.setOpacity(Number(opacity.value)));
    const section = element(
      "section",
      "",
      "",
      toggle("checkbox", layer.shown, (shown) => show([image], shown), element("h2", "name", layer.name)),
      element("label", "", "", element("span", "note", "opacity"), opacity),
    );
    if (layer.kind === "classes") {
      const list = element("ul");
      layer.classes.forEach((entry) => list.append(element("li", "", "", ...classLine(entry, false))));
      section.append(list);
    } else if (layer.ramp.length) {
      const bar = element("div");
      bar.style.background = `linear-gradient(to right, ${layer.ramp.join(", ")})`;
      const ends = ["0", layer.highest].map((value) => element("span", "note", value));
      section.append(element("div", "ramp", "", ends[0], bar, ends[1]));
    } else {
      section.append(element("p", "note", layer.note));
    }
    legend.append(section);
  };

  const attributes = (object, entry) => {
    const rows = {
      id: String(object.id),
      class: entry.name,
      score: object.score === null ? "unknown" : String(object.score),
      area_m2: object.area_m2 === null ? "unknown" : number(object.area_m2),
    };
    const list = element("dl", "attributes");
    Object.entries(rows).forEach(([name, value]) => list.append(element("dt", "", name), element("dd", "", value)));
    return list;
  };

  const addObjects = (layer) => {
    const groups = layer.classes.map(() => [L.layerGroup(), L.layerGroup()]);
    const points = (ring) => {
      const path = [];
      for (let index = 0; index < ring.length; index += 2) path.push(at(ring[index], ring[index + 1]));
      return path;
    };
    // The largest come first, so a small object on a large one can be clicked.
    layer.objects.forEach((object) => {
      const entry = layer.classes[object.class];
      const path = object.rings.map((part) => part.map(points));
      const halo = { renderer: halos, pane: "halo", interactive: false, fill: false, color: "#000", opacity: 0.75 };
      const line = { renderer: lines, color: entry.color, fillOpacity: layer.filled ? 0.25 : 0 };
      const shape = L.polygon(path, { ...line, weight: 2, smoothFactor: 0.5 });
      shape.bindPopup(() => attributes(object, entry), { maxWidth: 260 });
      shape.on("popupopen", () => shape.setStyle({ weight: 4 }));
      shape.on("popupclose", () => shape.setStyle({ weight: 2 }));
      groups[object.class][0].addLayer(L.polygon(path, { ...halo, weight: 4, smoothFactor: 0.5 }));
      groups[object.class][1].addLayer(shape);
    });
    const section = element("section", "", "", element("h2", "", layer.name));
    layer.classes.forEach((entry, index) => {
      if (!entry.total) return;
      show(groups[index], true);
      const change = (shown) => show(groups[index], shown);
      section.append(toggle("checkbox", true, change, ...classLine(entry, !layer.filled)));
    });
    if (!layer.total) section.append(element("p", "note", "none found"));
    if (layer.objects.length < layer.total) {
      const drawn = `The ${number(layer.objects.length)} largest of ${number(layer.total)} are drawn.`;
      section.append(element("p", "note", drawn));
    }
    legend.append(section);
  };

  const addReadout = () => {
    const place = content.place;
    const box = element("div", "readout position");
    const tell = (x, y) => {
      const inside = x >= 0 && y >= 0 && x < content.width && y < content.height;
      const pixel = inside ? `column ${Math.floor(x)}, row ${Math.floor(y)}` : "outside the scene";
      if (!place) {
        box.replaceChildren(pixel);
        return;
      }
      const [a, b, c, d, e, f] = place.affine;
      const east = (a * x + b * y + c).toFixed(place.decimals);
      const north = (d * x + e * y + f).toFixed(place.decimals);
      box.replaceChildren(`${east}, ${north} `, element("span", "crs", `${place.crs} · ${pixel}`));
    };
    const control = L.control({ position: "bottomleft" });
    control.onAdd = () => box;
    control.addTo(map);
    map.on("mousemove click", (event) => tell(event.latlng.lng, -event.latlng.lat));
    tell(content.width / 2, content.height / 2);
  };

  const addScale = () => {
    const text = element("div");
    const bar = element("div", "bar");
    const control = L.control({ position: narrow ? "bottomleft" : "bottomright" });
    control.onAdd = () => element("div", "readout scale", "", text, bar);
    control.addTo(map);
    const update = () => {
      const onScreen = map.getZoomScale(map.getZoom(), 0);
      const most = (120 / onScreen) * (content.metres ?? 1);
      const power = 10 ** Math.floor(Math.log10(most));
      const length = power * [5, 2, 1].find((step) => step * power <= most);
      const name = content.metres === null ? `${length} px` : length >= 1000 ? `${length / 1000} km` : `${length} m`;
      text.textContent = length < 1 && content.metres !== null ? `${Math.round(length * 1e4) / 100} cm` : name;
      bar.style.width = `${(length / (content.metres ?? 1)) * onScreen}px`;
    };
    map.on("zoomend", update);
    update();
  };

  const size = `${number(content.width)} × ${number(content.height)} px`;
  legend.querySelector("summary").append(element("span", "name", content.title));
  legend.append(element("p", "about", `${content.model} · ${size}`));
  legend.open = !narrow;
  const room = narrow ? { paddingTopLeft: [12, 64], paddingBottomRight: [12, 88] }
                      : { paddingTopLeft: [56, 16], paddingBottomRight: [296, 56] };
  map.fitBounds(bounds, room);
  map.setMinZoom(map.getZoom() - 2);
  addGrounds();
  content.layers.forEach((layer) => (layer.kind === "objects" ? addObjects(layer) : addImage(layer)));
  addReadout();
  addScale();
  // For tools that look at the page.
  window.preview = { map };
})();
