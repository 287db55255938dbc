// Text on our nodes: on the report nodes after they ran, on the patch node after a sampler ran, on
// Radial Multi-GPU after both.
import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"

const NAME = "radial attention says"
// What a node says of a run of its model, by the event that tells it.
const RUNS = {
  "radial_attention.summary": "RadialAttentionPatch", // see nodes/run/run_reporter.py
  "radial_attention.cards": "RadialMultiGPU" // see nodes/cards/wrapper.py
}
const TEXT_NODES = [
  "RadialMaskPreview",
  "RadialAttentionReport",
  "RadialAttentionCompare",
  "RadialSettingsSearch",
  "RadialTrimLora",
  "RadialMultiGPU"
]
const OURS = ["RadialAttentionPatch", ...TEXT_NODES]
const LINE = 16 // pixels
const CHARACTER = 6.2 // pixels, on average
const MOST_LINES = 14
const WIDTH = 440 // pixels, of a node with a picture
const PICTURE = 400 // pixels, the height of a picture with some room

/** Put text on a node, in place of the previous text. It is not saved with the graph.
 *  room: pixels that something else on the node needs below the text.
 */
function setText(node, text, room = 0) {
  let widget = node.widgets?.find((each) => each.name === NAME)
  const isFirst = !widget
  if (isFirst) {
    const element = document.createElement("div")
    Object.assign(element.style, {
      font: `11px/${LINE}px sans-serif`,
      color: "var(--input-text, #ddd)",
      background: "var(--comfy-input-bg, #222)",
      borderRadius: "6px",
      padding: "5px 8px",
      boxSizing: "border-box",
      overflowY: "auto",
      overflowWrap: "anywhere",
      whiteSpace: "pre-wrap",
      userSelect: "text"
    })
    widget = node.addDOMWidget(NAME, "radial_text", element, {
      serialize: false,
      getValue: () => element.textContent,
      setValue: (value) => (element.textContent = value),
      getMinHeight: () => height(node, element.textContent),
      getMaxHeight: () => height(node, element.textContent)
    })
    widget.serialize = false
  }
  widget.element.textContent = text
  const least = node.computeSize()[1] + (isFirst ? room : 0) // later, the user's own size stays
  node.setSize([node.size[0], Math.max(node.size[1], least)])
  node.setDirtyCanvas?.(true, true)
}

/** The height of the text at the width of the node. */
function height(node, text) {
  const most = Math.max((node.size[0] - 46) / CHARACTER, 20)
  const lines = text.split("\n").map((line) => Math.max(Math.ceil(line.length / most), 1))
  return Math.min(lines.reduce((sum, each) => sum + each, 0), MOST_LINES) * LINE + 30
}

/** The node with the id that it ran with: "5", or "5:3" for node 3 in the subgraph of node 5. */
function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph
  let node = null
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(Number(part))
    graph = node?.subgraph
  }
  return node
}

app.registerExtension({
  name: "RadialAttention.NodeText",
  setup() {
    for (const [event, type] of Object.entries(RUNS)) {
      api.addEventListener(event, ({ detail }) => {
        const node = detail?.node && nodeOf(detail.node)
        if (node?.type === type) setText(node, detail.status)
      })
    }
  },
  // Graphs saved by earlier versions have a number here; HTML nodes accept strings only.
  loadedGraphNode(node) {
    if (!OURS.includes(node.type)) return
    const widget = node.widgets?.find((each) => each.name === "block_size")
    if (widget) widget.value = String(widget.value)
  },
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!TEXT_NODES.includes(nodeData.name)) return
    const { onExecuted, onNodeCreated } = nodeType.prototype
    nodeType.prototype.onNodeCreated = function () {
      onNodeCreated?.apply(this, arguments)
      this.setSize([Math.max(this.size[0], WIDTH), this.size[1]])
    }
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.apply(this, arguments)
      if (Array.isArray(output?.text)) setText(this, output.text.join("\n"), output.images ? PICTURE : 0)
    }
  }
})
