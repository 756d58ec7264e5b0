from litengine.cli import main

if __name__ == "__main__":
    main("litcnn.model.ImageClassifier", "litcnn.data.ImageData")  # the project's two classes
