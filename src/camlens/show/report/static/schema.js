/* What the page shows: the JSON that Python wrote (camlens.show.report), and what the network answered since.
   An image is a row: its place in all the lists of images. Rows from `errorCount` on hold answers. */

const facts = JSON.parse(document.getElementById("facts").textContent);
export const reportId = facts.id;
export const data = facts.data; // the data set
export const classNames = facts.names;
export const inputSize = facts.side; // height, width
export const images = facts.images; // those that a model has wrong
export const models = facts.models;
export const firstModel = models[0];
export const secondModel = models[1];
export const findings = facts.findings;
export const words = facts.words; // for each error of the first model
export const sentences = facts.sentences;
export const doubt = facts.doubt; // of each label, by a second opinion; null without one
export const sample = facts.sample; // images drawn at random, whose labels may be judged
export const experiments = facts.experiments;
export const common = facts.common; // groups and shortcuts
export const plane = facts.plane;
export const live = facts.live; // where the page is served
export const errorCount = images.index.length;

export const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;

/* What a model says of an image and a class c. */
const column = (model, row, c) => model.classes[row].indexOf(c);
export const hasClass = (model, row, c) => column(model, row, c) >= 0;
export const probability = (model, row, c) => model.probability[row][column(model, row, c)];
export const logit = (model, row, c) => model.logit[row][column(model, row, c)];
export const isWrong = (model, row) => images.label[row] !== null && model.prediction[row] !== images.label[row];

/* With two models, an image is judged by the one that has it wrong. */
export const judgedModel = (row) => (secondModel && !isWrong(firstModel, row) ? secondModel : firstModel);
export const predicted = (row) => judgedModel(row).prediction[row];

/* What is known of an image of the data that is listed as an error or was drawn. */
export function imageAt(index) {
  const row = images.index.indexOf(index);
  if (row >= 0 && row < errorCount) {
    return { file: images.file[row], label: images.label[row], prediction: firstModel.prediction[row], source: [facts.pictures, row] };
  }
  const place = sample.index.indexOf(index);
  const [file, label, prediction] = ["file", "label", "prediction"].map((key) => sample[key][place]);
  return { file, label, prediction, source: [sample.pictures, place] };
}

/* What was found of an image, in words. */
export const wordsOf = (row) => words[row] ?? [];

/* Raw maps: integers times a scale for each image. The first image of a layer is `firstRow`. */
function unpack(layer, firstRow) {
  const wide = layer.bytes === 2, buffer = bytes(layer.data);
  const largest = Math.max(...layer.scale) * (wide ? 32767 : 127);
  return { ...layer, firstRow, values: wide ? new Int16Array(buffer) : new Int8Array(buffer), largest };
}

const layersOfModel = new Map(models.map((model) => [model, model.layers.map((layer) => unpack(layer, 0))]));
export const layersOf = (model, row) => answers.get(row)?.layers ?? layersOfModel.get(model);

export function rawMap(model, layer, row, c) {
  const size = layer.grid[0] * layer.grid[1], layerRow = row - layer.firstRow;
  const start = (layerRow * model.classes[row].length + column(model, row, c)) * size;
  return Float32Array.from(layer.values.subarray(start, start + size), (value) => value * layer.scale[layerRow]);
}

/* Answers of the network by row. */
export const answers = new Map();

export function addAnswer(index, answer) {
  const known = images.index.indexOf(index), row = known < 0 ? images.index.length : known;
  images.index[row] = index;
  images.file[row] = answer.file;
  images.label[row] = answer.label;
  for (const key of ["prediction", "classes", "probability", "logit", "rest", "loss"]) {
    firstModel[key][row] = answer.model[key][0];
  }
  const layers = answer.model.layers.map((layer) => unpack(layer, row));
  answers.set(row, { ...answer, layers, chosen: answer.chosen && unpack(answer.chosen, row) });
}

/* The sheets on which an image lies and its number there; the training images behind it and its row in their lists. */
export const pictureOf = (row) => (row < errorCount ? [facts.pictures, row] : [answers.get(row).pictures, 0]);
export const evidenceOf = (row) => (row < errorCount ? [facts.evidence, row] : [answers.get(row).evidence, 0]);
